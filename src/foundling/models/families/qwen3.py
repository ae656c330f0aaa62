"""Qwen3 dense (arXiv:2505.09388): Llama with an RMSNorm on every query and key head."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, uniform_blocks
from foundling.models.families.fields import Fields
from foundling.models.families.llama import decoder_to_hf
from foundling.models.families.llama import rules as rules
from foundling.models.families.rope_fields import rope_from_hf

ARCHITECTURE = "Qwen3ForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Qwen3Config."""
    bias, norm = hf.take("attention_bias", bool, False), NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6))
    n_layers = hf.take("num_hidden_layers", int)
    hf.expect("hidden_act", "silu")
    hf.expect("use_sliding_window", False)
    hf.expect("layer_types", ["full_attention"] * n_layers)
    hf.skip("sliding_window", "max_window_layers")  # without use_sliding_window they have no effect
    mixer = AttentionConfig(
        n_heads=hf.take("num_attention_heads", int),
        n_kv_heads=hf.take("num_key_value_heads", int),
        head_dim=hf.take("head_dim", int, 128),
        rope=rope_from_hf(hf),
        qk_norm=norm,
        qkv_bias=bias,
        out_bias=bias,
    )
    return ModelConfig(
        family="qwen3",
        vocab_size=hf.take("vocab_size", int),
        dim=hf.take("hidden_size", int),
        blocks=uniform_blocks(n_layers, mixer, MLPConfig(hidden=hf.take("intermediate_size", int))),
        norm=norm,
        tie_embeddings=hf.take("tie_word_embeddings", bool, False),
        max_positions=hf.take("max_position_embeddings", int, 32768),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Qwen3Config."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig)
    return decoder_to_hf(config) | {"attention_bias": mixer.qkv_bias, "use_sliding_window": False}
