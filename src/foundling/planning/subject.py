"""What a planning question is about: a model by preset, directory, artifact or bare size, without loading a weight."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.lives import artifact_of
from foundling.core.units import human_count, parse_count
from foundling.models import cost
from foundling.models.config import ModelConfig
from foundling.models.presets import LADDER, names, preset

LADDER_VOCABULARY = 4096  # our own small presets take their tokenizer's


@dataclass(frozen=True)
class Subject:
    """A model to plan for. `config` is None when only its size is known."""

    name: str
    parameters: int
    active: int
    config: ModelConfig | None

    def shape(self) -> ModelConfig:
        """The architecture.

        Raises:
            FoundlingError: only the size is known.
        """
        if self.config is None:
            what = f"{self.name!r} is only a number of parameters, and this depends on the architecture"
            raise FoundlingError(what, "a preset or a model directory was expected", "See `foundling models`")
        return self.config

    def assumptions(self) -> list[str]:
        """What is assumed about it, for an answer."""
        if self.config is None:
            return [f"{self.name}: a dense model of {human_count(self.parameters)} parameters of unknown architecture"]
        vocabulary = f", vocabulary {self.config.vocab_size}" if self.name in LADDER else ""
        return [f"{self.name}: {human_count(self.parameters)} parameters counted from its config{vocabulary}"]

    def flops_per_token(self, context: int, *, training: bool = False) -> float:
        """Matrix FLOPs a token: counted from the architecture (`models/cost.py`); 2N or 6N if only N is known."""
        if self.config is not None:
            return cost.flops_per_token(self.config, context, training=training)
        return (6.0 if training else 2.0) * self.active


def subject(spec: str, store: Store) -> Subject:
    """The model that `spec` names: a preset, a size such as 7B, a directory with config.json, life/stage or a key.

    Raises:
        FoundlingError: it is none of these.
    """
    if spec.lower() in names():
        vocabulary = LADDER_VOCABULARY if spec.lower() in LADDER else None
        return _of(spec.lower(), preset(spec.lower(), vocab_size=vocabulary))
    if spec[-1:].upper() in "KMBT" or spec.replace(".", "").isdigit():
        try:
            size = int(parse_count(spec))
        except ValueError:
            size = 0
        if size > 0:
            return Subject(spec, size, size, None)
    found = artifact_of(store, spec, "model")
    path = (found.path if found else Path(spec)) / "config.json"
    if path.is_file():
        from foundling.models.families.translate import config_from_hf

        return _of(spec, config_from_hf(json.loads(path.read_text(encoding="utf-8")), str(path)))
    why = "expected a preset (`foundling models`), a size such as 7B, a model directory, life/stage or a key"
    raise FoundlingError(f"there is no model {spec!r}", why, nearest(spec, names()))


def _of(name: str, config: ModelConfig) -> Subject:
    return Subject(name, cost.n_parameters(config), cost.n_parameters(config, active=True), config)
