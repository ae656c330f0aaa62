"""Gemma 2 (arXiv:2408.00118): norms on both sides of each branch, capped logits, every other layer windowed."""

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
from foundling.models.families.decoder import SANDWICH_NAMES, decoder, decoder_to_hf, heads, layer_types, named, windows
from foundling.models.families.fields import Fields
from foundling.models.families.rope_fields import rope_from_hf
from foundling.models.tensor_rules import Rule

ARCHITECTURE = "Gemma2ForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Gemma2Config."""
    n_layers = hf.take("num_hidden_layers", int)
    hf.expect("use_bidirectional_attention", False)
    hf.skip("cache_implementation", "hidden_act")  # hidden_activation is the one that counts
    hf.expect("hidden_activation", "gelu_pytorch_tanh")
    norm = NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6), unit_offset=True)
    bias, cap = hf.take("attention_bias", bool, False), hf.take("attn_logit_softcapping", float, None)
    shape, rope = heads(hf, kv_heads=4, head_dim=256), rope_from_hf(hf, positions=8192)
    scale = hf.take("query_pre_attn_scalar", int, 256) ** -0.5
    common = {"rope": rope, "qkv_bias": bias, "out_bias": bias, "softcap": cap, "scale": scale}
    default = ["full_attention" if i % 2 else "sliding_attention" for i in range(n_layers)]
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int), activation="gelu_tanh")
    blocks = [
        BlockConfig(mixer=AttentionConfig(**shape, **common, window=window), ffn=ffn, norms="sandwich")
        for window in windows(hf, default, hf.take("sliding_window", int, 4096))
    ]
    head = HeadConfig(softcap=hf.take("final_logit_softcapping", float, None))
    scaled = EmbeddingConfig(scale=hf.take("hidden_size", int) ** 0.5)
    return decoder(hf, "gemma2", blocks, norm, tied=True, positions=8192, head=head, embedding=scaled)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Gemma2Config."""
    return gemma_to_hf(config) | {"hidden_act": "gelu_pytorch_tanh"}


def gemma_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields that Gemma 2 and 3 share."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig) and mixer.scale is not None
    window = next(
        (b.mixer.window for b in config.blocks if isinstance(b.mixer, AttentionConfig) and b.mixer.window), 4096
    )
    fields = decoder_to_hf(config) | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": mixer.qkv_bias,
        "attn_logit_softcapping": mixer.softcap,
        "final_logit_softcapping": config.head.softcap,
        "query_pre_attn_scalar": round(mixer.scale**-2),
        "sliding_window": window,
        "layer_types": layer_types(config),
    }
    del fields["hidden_act"]
    return fields


def rules(config: ModelConfig) -> list[Rule]:
    """One tensor of ours is one tensor of theirs."""
    return named(SANDWICH_NAMES, config)
