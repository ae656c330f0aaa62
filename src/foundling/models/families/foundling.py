"""Free stacks of parts, `model_type: "foundling"`: what has no twin elsewhere (S4, H3, RWKV-7, LSTM, hybrids).

config.json names its parts once and writes the stack as a pattern of them:

    "pattern": "mamba+mlp mamba+moe attention+mlp", "repeat": 4,
    "parts": {"mamba": {"kind": "mamba", "inner": 512, ...}, "mlp": {"kind": "mlp", ...}, ...}

What else is special about a block is a style: "attention+mlp:post" with "styles": {"post": {"norms": "post"}}; an
encoder, if any, is written the same way under "encoder". A part that is left out of `parts` gets the usual size for the
model's width (see `foundling_patterns.usual_part`).
"""

from __future__ import annotations

from typing import Any, TypeVar

from foundling.core.config import Config, parse
from foundling.models.config import (
    BlockConfig,
    EmbeddingConfig,
    EncoderConfig,
    HeadConfig,
    ModelConfig,
    NormConfig,
    RelativeBiasConfig,
)
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.foundling_patterns import blocks_of, pattern_of
from foundling.models.tensor_rules import SUFFIXES, Rule, same

ARCHITECTURE = "FoundlingForCausalLM"
C = TypeVar("C", bound=Config)


def from_hf(hf: Fields) -> ModelConfig:
    """Read a foundling config.json."""
    dim = hf.take("hidden_size", int)
    return ModelConfig(
        family="foundling",
        vocab_size=hf.take("vocab_size", int),
        dim=dim,
        blocks=_stack(hf, dim),
        norm=_part(hf, "norm", NormConfig) or NormConfig(),
        final_norm=hf.take("final_norm", bool, True),
        embedding=_part(hf, "embedding", EmbeddingConfig) or EmbeddingConfig(),
        head=_part(hf, "head", HeadConfig) or HeadConfig(),
        encoder=_encoder(hf, dim),
        relative_bias=_part(hf, "relative_bias", RelativeBiasConfig),
        tie_embeddings=hf.take("tie_word_embeddings", bool, False),
        max_positions=hf.take("max_position_embeddings", int, 2048),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The same fields again."""
    encoder = config.encoder
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        **pattern_of(config.blocks),
        "norm": _dump(config.norm),
        "final_norm": config.final_norm,
        "embedding": _dump(config.embedding),
        "head": _dump(config.head),
        "encoder": pattern_of(encoder.blocks) | {"relative_bias": _dump(encoder.relative_bias)} if encoder else None,
        "relative_bias": _dump(config.relative_bias),
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def _stack(hf: Fields, dim: int) -> tuple[BlockConfig, ...]:
    return blocks_of(
        hf.take("pattern", str),
        dim,
        hf.take("parts", dict, {}),
        repeat=hf.take("repeat", int, 1),
        styles=hf.take("styles", dict, {}),
        where=hf.where,
    )


def _encoder(hf: Fields, dim: int) -> EncoderConfig | None:
    data = hf.take("encoder", dict, {})
    if not data:
        return None
    fields = Fields(data, f"{hf.where}: encoder")
    encoder = EncoderConfig(
        blocks=_stack(fields, dim), relative_bias=_part(fields, "relative_bias", RelativeBiasConfig)
    )
    fields.finish()
    return encoder


def _part(hf: Fields, name: str, kind: type[C]) -> C | None:
    data = hf.take(name, dict, {})
    return parse(kind, data, f"{hf.where}: {name}") if data else None


def _dump(part: Config | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump(mode="json")


def rules(config: ModelConfig) -> list[Rule]:
    """Our own names."""
    import torch

    from foundling.models.language_model import LanguageModel

    with torch.device("meta"):
        names = LanguageModel(config).state_dict()
    layers = {name.rpartition(".")[0] if name.rpartition(".")[2] in SUFFIXES else name: None for name in names}
    return [same(layer, layer) for layer in layers]
