"""OLMo 2 (arXiv:2501.00656): norms after attention and feed-forward, and over all query and all key heads at once."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, NormConfig
from foundling.models.families.decoder import LLAMA_NAMES, decoder, decoder_to_hf, heads, named
from foundling.models.families.fields import Fields
from foundling.models.families.rope_fields import rope_from_hf
from foundling.models.tensor_rules import Rule

ARCHITECTURE = "Olmo2ForCausalLM"
NAMES = LLAMA_NAMES | {
    "blocks.{i}.mixer_norm": "model.layers.{i}.post_attention_layernorm",
    "blocks.{i}.ffn_norm": "model.layers.{i}.post_feedforward_layernorm",
}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate an Olmo2Config."""
    hf.expect("hidden_act", "silu")
    bias, norm = hf.take("attention_bias", bool, False), NormConfig(eps=hf.take("rms_norm_eps", float, 1e-5))
    mixer = AttentionConfig(
        **heads(hf), rope=rope_from_hf(hf), qk_norm=norm, qk_norm_over="all", qkv_bias=bias, out_bias=bias
    )
    block = BlockConfig(mixer=mixer, ffn=MLPConfig(hidden=hf.take("intermediate_size", int)), norms="post")
    return decoder(hf, "olmo2", (block,) * hf.take("num_hidden_layers", int), norm)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of an Olmo2Config, which has no head_dim."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig)
    fields = decoder_to_hf(config) | {"attention_bias": mixer.qkv_bias}
    del fields["head_dim"]
    return fields


def rules(config: ModelConfig) -> list[Rule]:
    """One tensor of ours is one tensor of theirs."""
    return named(NAMES, config)
