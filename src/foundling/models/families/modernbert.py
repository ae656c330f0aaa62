"""ModernBERT (arXiv:2412.13663): a bidirectional encoder with RoPE, GeGLU, pre-norm, two of three layers windowed."""

from __future__ import annotations

from typing import Any

from foundling.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
)
from foundling.models.families.decoder import ACTIVATIONS, layer_types, named_activation, windows
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.gemma3 import rope_by_type
from foundling.models.families.rope_fields import rope_of
from foundling.models.layers.rope_config import RopeConfig
from foundling.models.tensor_rules import Rule, fused, redundant, same

ARCHITECTURE = "ModernBertForMaskedLM"
NAMES = {
    "embedding": "embeddings.tok_embeddings",
    "inputs.norm": "embeddings.norm",
    "blocks.{i}.mixer_norm": "layers.{i}.attn_norm",
    "blocks.{i}.mixer.o_proj": "layers.{i}.attn.Wo",
    "blocks.{i}.ffn_norm": "layers.{i}.mlp_norm",
    "blocks.{i}.ffn.down": "layers.{i}.mlp.Wo",
    "norm": "final_norm",
}
HEAD = {"transform.dense": "head.dense", "transform.norm": "head.norm", "output_bias": "decoder"}
TRAINING = (
    "initializer_cutoff_factor",
    "deterministic_flash_attn",
    "reference_compile",
    "repad_logits_with_grad",
    "sparse_prediction",
    "sparse_pred_ignore_index",
    "classifier_pooling",
    "cls_token_id",
)


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a ModernBertConfig. Its window counts both sides: half of it is seen each way."""
    dim, n_heads = hf.take("hidden_size", int, 768), hf.take("num_attention_heads", int, 12)
    n_layers, bias = hf.take("num_hidden_layers", int, 22), hf.take("attention_bias", bool, False)
    hf.skip("layer_norm_eps", "position_embedding_type", *TRAINING)
    hf.expect("tie_word_embeddings", True)
    every = hf.take("global_attn_every_n_layers", int, 3)
    default = ["sliding_attention" if i % every else "full_attention" for i in range(n_layers)]
    shape = {"n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": dim // n_heads}
    full, local = _ropes(hf)
    hidden, ffn_bias = hf.take("intermediate_size", int, 1152), hf.take("mlp_bias", bool, False)
    ffn = MLPConfig(hidden=hidden, activation=hf.choice("hidden_activation", ACTIVATIONS, "gelu"), bias=ffn_bias)
    mixers = [
        AttentionConfig(
            **shape, qkv_bias=bias, out_bias=bias, causal=False, window=window, rope=local if window else full
        )
        for window in windows(hf, default, hf.take("local_attention", int, 128) // 2 + 1)
    ]
    head = HeadConfig(
        kind="none" if hf.head == "none" else "mlm",
        bias=hf.take("decoder_bias", bool, True) and hf.head != "none",
        dense_bias=hf.take("classifier_bias", bool, False),
        activation=ACTIVATIONS[hf.take("classifier_activation", str, "gelu")],
    )
    return ModelConfig(
        family="modernbert",
        vocab_size=hf.take("vocab_size", int, 50368),
        dim=dim,
        blocks=tuple(BlockConfig(mixer=mixer, ffn=ffn, mixer_norm=i > 0) for i, mixer in enumerate(mixers)),
        norm=NormConfig(kind="layer", bias=hf.take("norm_bias", bool, False), eps=hf.take("norm_eps", float, 1e-5)),
        embedding=EmbeddingConfig(norm=True),
        head=head,
        tie_embeddings=True,
        max_positions=hf.take("max_position_embeddings", int, 8192),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a ModernBertConfig."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig)
    reach = [b.mixer.window for b in config.blocks if isinstance(b.mixer, AttentionConfig) and b.mixer.window]
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "attention_bias": mixer.qkv_bias,
        "intermediate_size": ffn.hidden,
        "mlp_bias": ffn.bias,
        "hidden_activation": named_activation(ffn.activation, "gelu_pytorch_tanh"),
        "classifier_activation": named_activation(config.head.activation, "gelu_pytorch_tanh"),
        "classifier_bias": config.head.dense_bias,
        "decoder_bias": config.head.bias or config.head.kind == "none",
        "norm_bias": config.norm.bias,
        "norm_eps": config.norm.eps,
        "local_attention": 2 * (reach[0] - 1) if reach else 128,
        "layer_types": layer_types(config),
        "max_position_embeddings": config.max_positions,
        **rope_by_type(config),
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Queries, keys and values are one of their tensors, gate and up another; a bare model has no prefix."""
    start = "" if config.head.kind == "none" else "model."
    qkv = fused([f"blocks.{{i}}.mixer.{name}_proj" for name in "qkv"], f"{start}layers.{{i}}.attn.Wqkv")
    gate_up = fused(["blocks.{i}.ffn.gate", "blocks.{i}.ffn.up"], f"{start}layers.{{i}}.mlp.Wi")
    body = [same(ours, start + theirs) for ours, theirs in NAMES.items()]
    return [*body, qkv, gate_up, *(same(*names) for names in HEAD.items()), redundant("decoder.weight")]


def _ropes(hf: Fields) -> tuple[RopeConfig, RopeConfig]:
    """Of the full and of the windowed layers, from either spelling."""
    given, positions = hf.take("rope_parameters", dict, {}), hf.take("max_position_embeddings", int, 8192)
    full, local = dict(given.get("full_attention") or {}), dict(given.get("sliding_attention") or {})
    full.setdefault("rope_theta", hf.take("global_rope_theta", float, 160000.0))
    local.setdefault("rope_theta", hf.take("local_rope_theta", float, 10000.0))
    return rope_of(full, hf.where, None, positions), rope_of(local, hf.where, None, positions)
