"""Llama 1-3 (arXiv:2302.13971, 2307.09288, 2407.21783): RMSNorm, RoPE, grouped queries, SwiGLU. SmolLM is one too."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, uniform_blocks
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.rope_fields import rope_from_hf, rope_to_hf
from foundling.models.tensor_rules import Rule, same

ARCHITECTURE = "LlamaForCausalLM"
NAMES = {
    "embedding": "model.embed_tokens",
    "blocks.{i}.mixer_norm": "model.layers.{i}.input_layernorm",
    "blocks.{i}.mixer.q_proj": "model.layers.{i}.self_attn.q_proj",
    "blocks.{i}.mixer.k_proj": "model.layers.{i}.self_attn.k_proj",
    "blocks.{i}.mixer.v_proj": "model.layers.{i}.self_attn.v_proj",
    "blocks.{i}.mixer.o_proj": "model.layers.{i}.self_attn.o_proj",
    "blocks.{i}.mixer.q_norm": "model.layers.{i}.self_attn.q_norm",
    "blocks.{i}.mixer.k_norm": "model.layers.{i}.self_attn.k_norm",
    "blocks.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "blocks.{i}.ffn.gate": "model.layers.{i}.mlp.gate_proj",
    "blocks.{i}.ffn.up": "model.layers.{i}.mlp.up_proj",
    "blocks.{i}.ffn.down": "model.layers.{i}.mlp.down_proj",
    "norm": "model.norm",
    "output": "lm_head",
}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a LlamaConfig."""
    dim, heads = hf.take("hidden_size", int), hf.take("num_attention_heads", int)
    bias = hf.take("attention_bias", bool, False)
    hf.expect("hidden_act", "silu")
    mixer = AttentionConfig(
        n_heads=heads,
        n_kv_heads=hf.take("num_key_value_heads", int, heads),
        head_dim=hf.take("head_dim", int, dim // heads),
        rope=rope_from_hf(hf),
        qkv_bias=bias,
        out_bias=bias,
    )
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int), bias=hf.take("mlp_bias", bool, False))
    return ModelConfig(
        family="llama",
        vocab_size=hf.take("vocab_size", int),
        dim=dim,
        blocks=uniform_blocks(hf.take("num_hidden_layers", int), mixer, ffn),
        norm=NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6)),
        tie_embeddings=hf.take("tie_word_embeddings", bool, False),
        max_positions=hf.take("max_position_embeddings", int, 2048),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a LlamaConfig."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig) and mixer.rope is not None
    return decoder_to_hf(config) | {"attention_bias": mixer.qkv_bias, "mlp_bias": ffn.bias}


def rules(config: ModelConfig) -> list[Rule]:
    """One tensor of ours is one tensor of theirs."""
    return [same(ours, theirs) for ours, theirs in NAMES.items()]


def decoder_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields that Llama's many relatives share."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig) and mixer.rope is not None
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": ffn.hidden,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.n_kv_heads,
        "head_dim": mixer.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **rope_to_hf(mixer.rope),
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }
