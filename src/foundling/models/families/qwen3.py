"""Qwen3 dense (arXiv:2505.09388): Llama with an RMSNorm on every query and key head."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, NormConfig
from foundling.models.families.decoder import decoder, decoder_to_hf, heads
from foundling.models.families.fields import Fields
from foundling.models.families.llama import rules as rules
from foundling.models.families.qwen2 import sliding, sliding_to_hf
from foundling.models.families.rope_fields import rope_from_hf

ARCHITECTURE = "Qwen3ForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Qwen3Config."""
    hf.expect("hidden_act", "silu")
    bias, norm = hf.take("attention_bias", bool, False), NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6))
    shape, rope = heads(hf, kv_heads=32, head_dim=128), rope_from_hf(hf, positions=32768)
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int))
    mixers = (
        AttentionConfig(**shape, rope=rope, qk_norm=norm, qkv_bias=bias, out_bias=bias, window=window)
        for window in sliding(hf)
    )
    return decoder(hf, "qwen3", [BlockConfig(mixer=mixer, ffn=ffn) for mixer in mixers], norm, positions=32768)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Qwen3Config."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig)
    return decoder_to_hf(config) | {"attention_bias": mixer.qkv_bias} | sliding_to_hf(config)
