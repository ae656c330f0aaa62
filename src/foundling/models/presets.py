"""Named architectures: a ladder of small models to train here, and published ones to plan with and compare to."""

from __future__ import annotations

from typing import Any

from foundling.core.errors import FoundlingError, nearest
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.models.families.translate import config_from_hf
from foundling.models.published import PUBLISHED as TRANSFORMERS

# name: (layers, dim, heads, kv heads, feed-forward width). The name counts the blocks' parameters; embeddings come on
# top. Heads are 32-64 wide and widths multiples of 64, which the matrix kernels like. Those below 1M are for
# `scale`: they grow in depth and width alike, as those above do.
LADDER = {
    "foundling-25k": (2, 32, 1, 1, 96),
    "foundling-50k": (2, 48, 1, 1, 128),
    "foundling-100k": (2, 64, 2, 1, 192),
    "foundling-147k": (3, 64, 2, 1, 192),
    "foundling-220k": (3, 80, 2, 1, 224),
    "foundling-400k": (4, 96, 3, 1, 288),
    "foundling-1m": (5, 128, 4, 2, 384),
    "foundling-2m": (5, 192, 6, 2, 512),
    "foundling-3m": (5, 256, 4, 2, 512),
    "foundling-4m": (6, 256, 4, 2, 640),
    "foundling-6m": (6, 320, 5, 1, 768),
    "foundling-8m": (6, 384, 6, 2, 832),
    "foundling-12m": (8, 384, 6, 2, 960),
    "foundling-16m": (8, 448, 7, 1, 1152),
}


def _recurrent(model_type: str, layers: int, dim: int, **rest: Any) -> dict[str, Any]:
    return {"model_type": model_type, "num_hidden_layers": layers, "hidden_size": dim} | rest


_MAMBA2: dict[str, Any] = {"vocab_size": 50288, "head_dim": 64, "n_groups": 1, "tie_word_embeddings": True}
RECURRENT: dict[str, dict[str, Any]] = {
    f"mamba-{size}": _recurrent("mamba", layers, dim, vocab_size=50280)
    for size, layers, dim in (("130m", 24, 768), ("370m", 48, 1024), ("790m", 48, 1536), ("1.4b", 48, 2048))
}
RECURRENT |= {
    "mamba-2.8b": _recurrent("mamba", 64, 2560, vocab_size=50280),
    "mamba2-130m": _recurrent("mamba2", 24, 768, num_heads=24, **_MAMBA2),
    "mamba2-2.7b": _recurrent("mamba2", 64, 2560, num_heads=80, **_MAMBA2),
    "rwkv-4-169m": _recurrent("rwkv", 12, 768, vocab_size=50277),
    "rwkv-4-7b": _recurrent("rwkv", 32, 4096, vocab_size=50277),
    "rwkv-4-14b": _recurrent("rwkv", 40, 5120, vocab_size=50277),
    "jamba-v0.1": _recurrent("jamba", 32, 4096, vocab_size=65536, num_attention_heads=32),
}


PUBLISHED = TRANSFORMERS | RECURRENT


def names() -> list[str]:
    """Every preset, the ladder first, smallest first."""
    return [*LADDER, *PUBLISHED]


def preset(name: str, *, vocab_size: int | None = None, max_positions: int = 2048) -> ModelConfig:
    """The architecture of that name.

    Args:
        vocab_size: of the tokenizer; required for the ladder, refused for published models (they have their own).
        max_positions: the ladder's longest sequence.

    Raises:
        FoundlingError: for an unknown name, with the nearest one.
    """
    if name in LADDER:
        if vocab_size is None:
            raise FoundlingError(f"preset {name!r} needs a vocabulary size", "it takes the tokenizer's")
        return _rung(name, vocab_size, max_positions)
    if name not in PUBLISHED:
        raise FoundlingError(f"no preset named {name!r}", f"there are: {', '.join(names())}", nearest(name, names()))
    config = config_from_hf(PUBLISHED[name], f"preset {name!r}")
    if vocab_size not in (None, config.vocab_size):
        raise FoundlingError(f"preset {name!r} has a vocabulary of {config.vocab_size}, not {vocab_size}")
    return config


def table(context: int = 4096) -> list[dict[str, Any]]:
    """One row per published preset: its shape and its cost at a context length, for `foundling models`."""
    rows = []
    for name in PUBLISHED:
        config = preset(name)
        ffn = next((block.ffn for block in config.blocks if block.ffn is not None), None)
        rows.append(
            {
                "name": name,
                "family": config.family,
                "blocks": config.n_layers + (len(config.encoder.blocks) if config.encoder else 0),
                "width": config.dim,
                "ffn": ffn.hidden if ffn is not None else None,
                "vocabulary": config.vocab_size,
                "context": config.max_positions,
                "parameters": config.n_parameters(),
                "active": config.n_parameters(active=True),
                "flops_per_token": config.flops_per_token(context),
                "kv_bytes_per_token": config.kv_bytes_per_token(),
            }
        )
    return rows


def _rung(name: str, vocab_size: int, max_positions: int) -> ModelConfig:
    layers, dim, heads, kv_heads, hidden = LADDER[name]
    norm = NormConfig(eps=1e-6)
    mixer = AttentionConfig(
        n_heads=heads, n_kv_heads=kv_heads, head_dim=dim // heads, rope=RopeConfig(theta=10000.0), qk_norm=norm
    )
    return ModelConfig(
        family="qwen3",
        vocab_size=vocab_size,
        dim=dim,
        blocks=uniform_blocks(layers, mixer, MLPConfig(hidden=hidden)),
        norm=norm,
        tie_embeddings=True,
        max_positions=max_positions,
    )
