"""Published architectures: one short file each, the config translation and the tensor names, both ways.

A family module has ARCHITECTURE (the class named in config.json), from_hf, to_hf and rules: see `Family`.
Adding one: write the file, add its model_type below, add a parity test.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from foundling.core.errors import FoundlingError, nearest

if TYPE_CHECKING:
    from foundling.models.config import ModelConfig
    from foundling.models.families.fields import Fields
    from foundling.models.tensor_rules import Rule

FAMILIES = {  # model_type -> module of this package
    "bert": "bert",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "foundling": "foundling",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "jamba": "jamba",
    "llama": "llama",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "modernbert": "modernbert",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "roberta": "roberta",
    "rwkv": "rwkv",
    "t5": "t5",
}


class Family(Protocol):
    """What a family module offers."""

    ARCHITECTURE: str

    def from_hf(self, hf: Fields) -> ModelConfig:
        """Translate config.json; every field that is not read and not known to be harmless is then refused."""
        ...

    def to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of config.json that describe the architecture."""
        ...

    def rules(self, config: ModelConfig) -> list[Rule]:
        """How our tensor names correspond to the ones in the files."""
        ...


def family_for(model_type: str) -> Family:
    """The family module of a `model_type`.

    Raises:
        FoundlingError: naming the type and the nearest supported one.
    """
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise FoundlingError(
            f"model_type {model_type!r} is not supported", f"supported: {supported}", nearest(model_type, FAMILIES)
        )
    family: Any = importlib.import_module(f"foundling.models.families.{FAMILIES[model_type]}")
    return family  # type: ignore[no-any-return]
