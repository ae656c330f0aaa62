"""What the many relatives of Llama share in config.json and in their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foundling.models.config import (
    Activation,
    AttentionConfig,
    BlockConfig,
    HeadConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
)
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.rope_fields import rope_to_hf
from foundling.models.tensor_rules import Rule, redundant, same

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
LLAMA_NAMES = {
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
SANDWICH_NAMES = LLAMA_NAMES | {
    "blocks.{i}.mixer_post_norm": "model.layers.{i}.post_attention_layernorm",
    "blocks.{i}.ffn_norm": "model.layers.{i}.pre_feedforward_layernorm",
    "blocks.{i}.ffn_post_norm": "model.layers.{i}.post_feedforward_layernorm",
}


def named_activation(activation: Activation, tanh: str) -> str:
    """config.json's name of an activation; the approximate GELU has several, and `tanh` is the family's."""
    return tanh if activation == "gelu_tanh" else activation


def heads(hf: Fields, *, kv_heads: int | None = None, head_dim: int | None = None) -> dict[str, Any]:
    """The shape of an attention layer; the defaults are the family's, or as many key heads as query heads."""
    dim, n_heads = hf.take("hidden_size", int), hf.take("num_attention_heads", int)
    return {
        "n_heads": n_heads,
        "n_kv_heads": hf.take("num_key_value_heads", int, kv_heads or n_heads),
        "head_dim": hf.take("head_dim", int, head_dim or dim // n_heads),
    }


def windows(hf: Fields, default: Sequence[str], window: int | None) -> list[int | None]:
    """Each layer's window, from `layer_types` or the family's default types."""
    types = hf.take("layer_types", list, list(default))
    table = {"full_attention": None, "sliding_attention": window}
    unknown = [kind for kind in types if kind not in table]
    if unknown or len(types) != len(default):
        hf.refuse("layer_types", "full_attention or sliding_attention, one per layer")
    return [table[kind] for kind in types]


def decoder(
    hf: Fields,
    family: str,
    blocks: Sequence[BlockConfig],
    norm: NormConfig,
    *,
    tied: bool = False,
    positions: int = 2048,
    **rest: Any,
) -> ModelConfig:
    """A decoder of the given blocks; `tied` and `positions` are the family's defaults."""
    tied = hf.take("tie_word_embeddings", bool, tied)
    if hf.head == "labels":  # a classifier or a reward model: one matrix of scores in place of the vocabulary's
        tied, rest = False, rest | {"head": HeadConfig(kind="labels", n_labels=hf.n_labels)}
    return ModelConfig(
        family=family,
        vocab_size=hf.take("vocab_size", int),
        dim=hf.take("hidden_size", int),
        blocks=tuple(blocks),
        norm=norm,
        tie_embeddings=tied,
        max_positions=hf.take("max_position_embeddings", int, positions),
        **hf.tokens(),
        **rest,
    )


def decoder_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields that Llama's relatives share."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and mixer.rope is not None
    hidden = {"intermediate_size": ffn.hidden} if isinstance(ffn, MLPConfig) else {}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.n_kv_heads,
        "head_dim": mixer.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **hidden,
        **rope_to_hf(mixer.rope),
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def layer_types(config: ModelConfig) -> list[str]:
    """config.json's name for each layer's reach."""
    return [
        "sliding_attention" if getattr(block.mixer, "window", None) else "full_attention" for block in config.blocks
    ]


def named(names: dict[str, str], config: ModelConfig) -> list[Rule]:
    """One tensor of ours is one of theirs; a tied head may be in the files too."""
    if config.head.kind == "labels":
        names = names | {"output": "score"}
    tied = [redundant("lm_head.weight")] if config.tie_embeddings else []
    return [same(ours, theirs) for ours, theirs in names.items()] + tied
