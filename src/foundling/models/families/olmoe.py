"""OLMoE (arXiv:2409.02060): 64 small experts, eight per token; norms over all query and all key heads at once."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, ModelConfig, MoEConfig, NormConfig, uniform_blocks
from foundling.models.families.decoder import decoder, decoder_to_hf, heads
from foundling.models.families.fields import Fields
from foundling.models.families.qwen3_moe import moe_to_hf
from foundling.models.families.qwen3_moe import rules as rules
from foundling.models.families.rope_fields import rope_from_hf

ARCHITECTURE = "OlmoeForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate an OlmoeConfig."""
    hf.expect("hidden_act", "silu")
    bias, norm = hf.take("attention_bias", bool, False), NormConfig(eps=hf.take("rms_norm_eps", float, 1e-5))
    options = {"qkv_bias": bias, "out_bias": bias, "clip_qkv": hf.take("clip_qkv", float, None)}
    rope = rope_from_hf(hf, positions=4096)
    mixer = AttentionConfig(**heads(hf), rope=rope, qk_norm=norm, qk_norm_over="all", **options)
    ffn = MoEConfig(
        n_experts=hf.take("num_experts", int, hf.take("num_local_experts", int, 64)),
        top_k=hf.take("num_experts_per_tok", int, 8),
        hidden=hf.take("intermediate_size", int),
        normalize=hf.take("norm_topk_prob", bool, False),
        balance_weight=hf.take("router_aux_loss_coef", float, 0.01),
    )
    return decoder(hf, "olmoe", uniform_blocks(hf.take("num_hidden_layers", int), mixer, ffn), norm, positions=4096)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of an OlmoeConfig, which calls the experts' width intermediate_size and has no head_dim."""
    mixer, fields = config.blocks[0].mixer, decoder_to_hf(config) | moe_to_hf(config)
    assert isinstance(mixer, AttentionConfig)
    fields["intermediate_size"] = fields.pop("moe_intermediate_size")
    del fields["head_dim"]
    return fields | {"attention_bias": mixer.qkv_bias, "clip_qkv": mixer.clip_qkv}
