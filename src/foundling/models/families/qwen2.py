"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, NormConfig
from foundling.models.families.decoder import decoder, decoder_to_hf, heads, layer_types, windows
from foundling.models.families.fields import Fields
from foundling.models.families.llama import rules as rules
from foundling.models.families.rope_fields import rope_from_hf

ARCHITECTURE = "Qwen2ForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Qwen2Config."""
    hf.expect("hidden_act", "silu")
    shape, rope = heads(hf, kv_heads=32), rope_from_hf(hf, positions=32768)
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int))
    mixers = (AttentionConfig(**shape, rope=rope, qkv_bias=True, window=window) for window in sliding(hf))
    blocks = [BlockConfig(mixer=mixer, ffn=ffn) for mixer in mixers]
    return decoder(hf, "qwen2", blocks, NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6)), positions=32768)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Qwen2Config, which has no head_dim."""
    fields = decoder_to_hf(config) | sliding_to_hf(config)
    del fields["head_dim"]
    return fields


def sliding(hf: Fields) -> list[int | None]:
    """Qwen's windows: only with use_sliding_window, and only from layer max_window_layers on."""
    n_layers, used = hf.take("num_hidden_layers", int), hf.take("use_sliding_window", bool, False)
    window, first = hf.take("sliding_window", int, 4096), hf.take("max_window_layers", int, 28)
    default = ["sliding_attention" if used and i >= first else "full_attention" for i in range(n_layers)]
    return windows(hf, default, window if used else None)


def sliding_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields that say the same."""
    reach = {block.mixer.window for block in config.blocks if isinstance(block.mixer, AttentionConfig)} - {None}
    used = {"sliding_window": reach.pop()} if reach else {}
    return {"use_sliding_window": bool(used), "layer_types": layer_types(config), **used}
