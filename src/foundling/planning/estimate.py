"""What a recipe will cost on this machine: time, memory and disk of each stage, before anything runs.

Estimates are operations over a rate. Data stages move text at rates measured once on a two-core machine; training
and evaluation do FLOPs (from the model's own cost) at a share of the measured matrix rate. `docs/planning.md` says
how far they were from the truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from foundling.core import hardware
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.hardware import Rates
from foundling.core.stages import Node
from foundling.core.units import human_bytes, human_count
from foundling.models import cost
from foundling.models.config import ModelConfig
from foundling.models.families.translate import config_from_hf
from foundling.models.presets import preset
from foundling.planning.step_time import PROCESS_BYTES, planned_memory, step_seconds

# Seconds for each megabyte of text, measured on two cores.
SECONDS_PER_MB = {"corpus": 0.18, "tokenizer": 0.12, "tokenize": 0.02}
BYTES_PER_TOKEN = 3.4
START_SECONDS = 4.0  # to build a model, look at the data and write the result
BASELINE_SECONDS = 6.0  # gzip, xz and n-gram models beside a base model
TOKENS_PER_EXAMPLE = 45  # of a worked example of the expression task; answers are about a third of it
TOKENS_PER_ANSWER = 18
SAMPLED_TOKENS_PER_S = 9000.0  # at a hundred sequences together: bound by the number of operations, not by FLOPs
MANY = 4  # inputs of a stage are named up to so many
DEFAULT_CORPUS_BYTES = 40e6


@dataclass
class StageEstimate:
    """What one stage should cost: seconds, peak bytes of memory, bytes on disk."""

    name: str
    verb: str
    reads: str
    makes: str
    reused: bool
    seconds: float = 0.0
    memory: float = PROCESS_BYTES
    disk: float = 0.0


@dataclass
class LifePlan:
    """The plan of a life: its stages in order, and the machine it is for."""

    name: str
    machine: str
    stages: list[StageEstimate]

    @property
    def seconds(self) -> float:
        """Wall time of what has still to be made."""
        return sum(stage.seconds for stage in self.stages if not stage.reused)

    @property
    def memory(self) -> float:
        """Peak memory over what has still to be made."""
        return max((stage.memory for stage in self.stages if not stage.reused), default=0.0)

    @property
    def disk(self) -> float:
        """Bytes of all artifacts."""
        return sum(stage.disk for stage in self.stages)

    def refuse_if_too_large(self) -> None:
        """Raise FoundlingError if a stage needs more memory than the machine has, naming it."""
        most = max(self.stages, key=lambda stage: 0.0 if stage.reused else stage.memory)
        have = hardware.memory_bytes()
        if not most.reused and most.memory > have:
            what = f"stage {most.name!r} needs about {human_bytes(most.memory)} of memory"
            raise FoundlingError(what, f"this machine has {human_bytes(have)}", "Use a smaller preset or micro_batch")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        total = {"seconds": self.seconds, "memory": self.memory, "disk": self.disk}
        return {"name": self.name, "machine": self.machine, **total, "stages": [asdict(stage) for stage in self.stages]}


@dataclass
class Known:
    """What is known, or guessed, about the artifacts upstream of a stage."""

    text_bytes: float = DEFAULT_CORPUS_BYTES
    vocab_size: int = 4096
    model: ModelConfig | None = None
    rates: Rates = field(default_factory=hardware.measure)


def plan_life(name: str, nodes: Sequence[Node], store: Store, rates: Rates) -> LifePlan:
    """Estimate every stage of a resolved life. What the store already has costs nothing."""
    known = Known(rates=rates)
    stages = []
    for node in nodes:
        found = store.find(node.key)
        estimate = StageEstimate(node.name, node.stage.verb, _reads(node), node.stage.kind, found is not None)
        _look_at_inputs(node, known)
        ESTIMATES.get(node.stage.verb, _nothing)(node, known, estimate)
        if found is not None:
            estimate.disk = float(found.size)
        stages.append(estimate)
    return LifePlan(name, hardware.describe(), stages)


def _look_at_inputs(node: Node, known: Known) -> None:
    """What artifacts from outside the life say of themselves: a model's architecture, the tokens' vocabulary."""
    for port, found in node.inputs.items():
        if isinstance(found, str):
            continue
        if port == "tokens" and (meta := found.path / "tokens.json").is_file():
            known.vocab_size = int(json.loads(meta.read_text(encoding="utf-8"))["vocab_size"])
        elif port in ("base", "model") and (shape := found.path / "config.json").is_file():
            known.model = config_from_hf(json.loads(shape.read_text(encoding="utf-8")), str(shape))


def _corpus(node: Node, known: Known, estimate: StageEstimate) -> None:
    known.text_bytes = float(getattr(node.config, "max_bytes", None) or DEFAULT_CORPUS_BYTES)
    estimate.seconds = SECONDS_PER_MB["corpus"] * known.text_bytes / 1e6
    estimate.memory = PROCESS_BYTES + 12 * known.text_bytes
    estimate.disk = 0.3 * known.text_bytes
    estimate.makes = f"{human_bytes(known.text_bytes)} of text"


def _tokenizer(node: Node, known: Known, estimate: StageEstimate) -> None:
    known.vocab_size = int(getattr(node.config, "vocab_size", known.vocab_size))
    estimate.seconds = SECONDS_PER_MB["tokenizer"] * known.text_bytes / 1e6
    estimate.memory = PROCESS_BYTES + 10 * known.text_bytes
    estimate.disk = 60.0 * known.vocab_size
    estimate.makes = f"{known.vocab_size} tokens"


def _tokenize(node: Node, known: Known, estimate: StageEstimate) -> None:
    tokens = known.text_bytes / BYTES_PER_TOKEN
    estimate.seconds = 1 + SECONDS_PER_MB["tokenize"] * known.text_bytes / 1e6
    estimate.memory = PROCESS_BYTES + 4 * known.text_bytes
    estimate.disk = 2 * tokens
    estimate.makes = f"{human_count(tokens)} tokens"


def _pretrain(node: Node, known: Known, estimate: StageEstimate) -> None:
    config: Any = node.config
    base = known.model if "base" in node.inputs else None
    model = base or preset(config.preset, vocab_size=known.vocab_size)
    known.model = model
    tokens = config.steps * config.batch_size * config.context
    _training(tokens, config, model, known, estimate)
    estimate.seconds += BASELINE_SECONDS
    estimate.makes = f"{human_count(cost.n_parameters(model))} parameters"


def _fine_tune(node: Node, known: Known, estimate: StageEstimate) -> None:
    config: Any = node.config
    if known.model is None:
        return
    rows = config.batch_size * config.context
    tokens = config.steps * rows or config.epochs * getattr(config, "examples", 1000) * TOKENS_PER_EXAMPLE
    _training(tokens, config, known.model, known, estimate)
    estimate.makes = f"{human_count(cost.n_parameters(known.model))} parameters"


def _reinforce(node: Node, known: Known, estimate: StageEstimate) -> None:
    config: Any = node.config
    if known.model is None:
        return
    answers = config.steps * config.prompts * config.samples
    short = config.model_copy(update={"context": 2 * TOKENS_PER_EXAMPLE})  # a prompt and its answer
    _training(answers * TOKENS_PER_EXAMPLE * config.updates, short, known.model, known, estimate)
    estimate.seconds += answers * TOKENS_PER_ANSWER / SAMPLED_TOKENS_PER_S
    estimate.makes = f"{human_count(cost.n_parameters(known.model))} parameters"


def _training(tokens: float, config: Any, model: ModelConfig, known: Known, estimate: StageEstimate) -> None:
    per_token = step_seconds(model, config, known.rates) / (config.batch_size * config.context)
    estimate.seconds = START_SECONDS + tokens * per_token
    estimate.memory = planned_memory(model, config)
    estimate.disk = 4.0 * cost.n_parameters(model)


def _evaluate(node: Node, known: Known, estimate: StageEstimate) -> None:
    config: Any = node.config
    if known.model is None:
        return
    estimate.seconds = 2.0
    if "expressions" in config.tasks:
        answers = 2 * config.expressions.items * (1 + config.expressions.samples)
        estimate.seconds += answers * TOKENS_PER_ANSWER / SAMPLED_TOKENS_PER_S
        estimate.disk += 60.0 * answers
    if "bits-per-byte" in config.tasks:
        read = config.bits_per_byte.max_bytes / BYTES_PER_TOKEN / (1 - config.bits_per_byte.window_context)
        estimate.seconds += read * cost.flops_per_token(known.model, 1024) / (0.25 * known.rates.fp32)
    estimate.memory = PROCESS_BYTES + 4 * cost.weight_bytes(known.model) + 1e9
    estimate.makes = f"{len(config.tasks)} tasks"


def _compress(node: Node, known: Known, estimate: StageEstimate) -> None:
    if known.model is not None:
        bits = float(getattr(node.config, "bits", 8))
        estimate.disk = cost.n_parameters(known.model) * bits / 8
        estimate.makes = f"{bits:.0f}-bit weights"
    estimate.seconds = 3.0


def _nothing(node: Node, known: Known, estimate: StageEstimate) -> None:
    estimate.seconds = 1.0


def _reads(node: Node) -> str:
    if len(node.sources) > MANY:
        return f"{len(node.sources)} stages"
    return ", ".join(node.sources.values()) or ", ".join(str(x) for x in getattr(node.config, "data", ())) or "-"


ESTIMATES: Mapping[str, Callable[[Node, Known, StageEstimate], None]] = {
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "tokenize": _tokenize,
    "pretrain": _pretrain,
    "sft": _fine_tune,
    "prefer": _fine_tune,
    "reward": _fine_tune,
    "reinforce": _reinforce,
    "evaluate": _evaluate,
    "compress": _compress,
}
