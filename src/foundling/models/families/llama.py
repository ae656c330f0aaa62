"""Llama 1-3 (arXiv:2302.13971, 2307.09288, 2407.21783): RMSNorm, RoPE, grouped queries, SwiGLU. SmolLM is one too."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, uniform_blocks
from foundling.models.families.decoder import LLAMA_NAMES, decoder, decoder_to_hf, heads, named
from foundling.models.families.fields import Fields
from foundling.models.families.rope_fields import rope_from_hf
from foundling.models.tensor_rules import Rule

ARCHITECTURE = "LlamaForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a LlamaConfig."""
    hf.expect("hidden_act", "silu")
    bias = hf.take("attention_bias", bool, False)
    mixer = AttentionConfig(**heads(hf), rope=rope_from_hf(hf), qkv_bias=bias, out_bias=bias)
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int), bias=hf.take("mlp_bias", bool, False))
    blocks = uniform_blocks(hf.take("num_hidden_layers", int), mixer, ffn)
    return decoder(hf, "llama", blocks, NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6)))


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a LlamaConfig."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig)
    return decoder_to_hf(config) | {"attention_bias": mixer.qkv_bias, "mlp_bias": ffn.bias}


def rules(config: ModelConfig) -> list[Rule]:
    """One tensor of ours is one tensor of theirs."""
    return named(LLAMA_NAMES, config)
