"""Free stacks of parts, `model_type: "foundling"`: what has no twin elsewhere (S4, H3, RWKV-7, LSTM, hybrids).

config.json names its parts once and writes the stack as a pattern of them:

    "pattern": "mamba+mlp mamba+moe attention+mlp", "repeat": 4,
    "parts": {"mamba": {"kind": "mamba", "inner": 512, ...}, "mlp": {"kind": "mlp", ...}, ...}

A part that is left out of `parts` gets the usual size for the model's width (see `foundling_patterns.usual_part`).
"""

from __future__ import annotations

from typing import Any

from foundling.core.config import parse
from foundling.models.config import EmbeddingConfig, ModelConfig, NormConfig
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.foundling_patterns import blocks_of, pattern_of
from foundling.models.tensor_rules import SUFFIXES, Rule, same

ARCHITECTURE = "FoundlingForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Read a foundling config.json."""
    dim = hf.take("hidden_size", int)
    pattern, repeat = hf.take("pattern", str), hf.take("repeat", int, 1)
    return ModelConfig(
        family="foundling",
        vocab_size=hf.take("vocab_size", int),
        dim=dim,
        blocks=blocks_of(pattern, dim, hf.take("parts", dict, {}), repeat=repeat, where=hf.where),
        norm=parse(NormConfig, hf.take("norm", dict, {}), f"{hf.where}: norm"),
        embedding=parse(EmbeddingConfig, hf.take("embedding", dict, {}), f"{hf.where}: embedding"),
        tie_embeddings=hf.take("tie_word_embeddings", bool, False),
        max_positions=hf.take("max_position_embeddings", int, 2048),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The same fields again."""
    pattern, repeat, parts = pattern_of(config.blocks)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "pattern": pattern,
        "repeat": repeat,
        "parts": parts,
        "norm": config.norm.model_dump(mode="json"),
        "embedding": config.embedding.model_dump(mode="json"),
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Our own names."""
    import torch

    from foundling.models.language_model import LanguageModel

    with torch.device("meta"):
        names = LanguageModel(config).state_dict()
    layers = {name.rpartition(".")[0] if name.rpartition(".")[2] in SUFFIXES else name: None for name in names}
    return [same(layer, layer) for layer in layers]
