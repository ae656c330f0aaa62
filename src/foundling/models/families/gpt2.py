"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere, a plain GELU feed-forward."""

from __future__ import annotations

from typing import Any

from foundling.models.config import (
    AttentionConfig,
    EmbeddingConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    uniform_blocks,
)
from foundling.models.families.decoder import ACTIVATIONS, named_activation
from foundling.models.families.fields import Fields, token_fields
from foundling.models.tensor_rules import Rule, fused, redundant, same, transposed

ARCHITECTURE = "GPT2LMHeadModel"
NAMES = {
    "embedding": "transformer.wte",
    "inputs.positions": "transformer.wpe",
    "blocks.{i}.mixer_norm": "transformer.h.{i}.ln_1",
    "blocks.{i}.ffn_norm": "transformer.h.{i}.ln_2",
    "norm": "transformer.ln_f",
    "output": "lm_head",
}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a GPT2Config."""
    dim, n_heads = hf.take("n_embd", int, 768), hf.take("n_head", int, 12)
    hf.expect("scale_attn_weights", True)
    hf.expect("scale_attn_by_inverse_layer_idx", False)
    hf.expect("add_cross_attention", False)
    hf.skip("reorder_and_upcast_attn", "n_ctx", "summary_activation", "summary_first_dropout")
    hf.skip("summary_proj_to_labels", "summary_type", "summary_use_proj")  # of a classification head
    mixer = AttentionConfig(n_heads=n_heads, n_kv_heads=n_heads, head_dim=dim // n_heads, qkv_bias=True, out_bias=True)
    activation = hf.choice("activation_function", ACTIVATIONS, "gelu_new")
    ffn = MLPConfig(hidden=hf.take("n_inner", int, 4 * dim), activation=activation, gated=False, bias=True)
    return ModelConfig(
        family="gpt2",
        vocab_size=hf.take("vocab_size", int, 50257),
        dim=dim,
        blocks=uniform_blocks(hf.take("n_layer", int, 12), mixer, ffn),
        norm=NormConfig(kind="layer", bias=True, eps=hf.take("layer_norm_epsilon", float, 1e-5)),
        embedding=EmbeddingConfig(positions="learned"),
        tie_embeddings=hf.take("tie_word_embeddings", bool, True),
        max_positions=hf.take("n_positions", int, 1024),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a GPT2Config."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig)
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "n_embd": config.dim,
        "n_layer": config.n_layers,
        "n_head": mixer.n_heads,
        "n_inner": ffn.hidden,
        "activation_function": named_activation(ffn.activation, "gelu_new"),
        "layer_norm_epsilon": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Their matrices are (in, out), and queries, keys and values are one."""
    qkv = [f"blocks.{{i}}.mixer.{name}_proj" for name in "qkv"]
    return [
        *(same(ours, theirs) for ours, theirs in NAMES.items()),
        fused(qkv, "transformer.h.{i}.attn.c_attn", flip=True),
        transposed("blocks.{i}.mixer.o_proj", "transformer.h.{i}.attn.c_proj"),
        transposed("blocks.{i}.ffn.up", "transformer.h.{i}.mlp.c_fc"),
        transposed("blocks.{i}.ffn.down", "transformer.h.{i}.mlp.c_proj"),
        redundant("lm_head.weight"),
    ]
