"""Qwen3 mixture of experts (arXiv:2505.09388): Qwen3 with many small experts."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig
from foundling.models.families.decoder import LLAMA_NAMES, decoder, decoder_to_hf, heads, named
from foundling.models.families.fields import Fields
from foundling.models.families.rope_fields import rope_from_hf
from foundling.models.tensor_rules import Rule, same, stacked

ARCHITECTURE = "Qwen3MoeForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Qwen3MoeConfig; layers in mlp_only_layers, and those off the sparse step, are dense."""
    hf.expect("hidden_act", "silu")
    hf.expect("use_sliding_window", False)
    hf.skip("sliding_window", "max_window_layers")  # without use_sliding_window they have no effect
    bias, norm = hf.take("attention_bias", bool, False), NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6))
    rope = rope_from_hf(hf, positions=32768)
    mixer = AttentionConfig(**heads(hf, kv_heads=4), rope=rope, qk_norm=norm, qkv_bias=bias, out_bias=bias)
    ffn = MoEConfig(
        n_experts=hf.take("num_experts", int, hf.take("num_local_experts", int, 128)),
        top_k=hf.take("num_experts_per_tok", int, 8),
        hidden=hf.take("moe_intermediate_size", int, 768),
        normalize=hf.take("norm_topk_prob", bool, False),
        balance_weight=hf.take("router_aux_loss_coef", float, 0.001),
    )
    dense = MLPConfig(hidden=hf.take("intermediate_size", int, 6144))
    step, only = hf.take("decoder_sparse_step", int, 1), hf.take("mlp_only_layers", list, [])
    blocks = [
        BlockConfig(mixer=mixer, ffn=ffn if i not in only and (i + 1) % step == 0 else dense)
        for i in range(hf.take("num_hidden_layers", int))
    ]
    return decoder(hf, "qwen3_moe", blocks, norm, positions=32768)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Qwen3MoeConfig."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig)
    dense = [i for i, block in enumerate(config.blocks) if isinstance(block.ffn, MLPConfig)]
    width = {"intermediate_size": config.blocks[dense[0]].ffn.hidden} if dense else {}  # type: ignore[union-attr]
    rest = {"attention_bias": mixer.qkv_bias, "mlp_only_layers": dense, **width}
    return decoder_to_hf(config) | moe_to_hf(config) | rest


def moe_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields that describe fine-grained experts."""
    ffn = next(block.ffn for block in config.blocks if isinstance(block.ffn, MoEConfig))
    return {
        "num_experts": ffn.n_experts,
        "num_experts_per_tok": ffn.top_k,
        "moe_intermediate_size": ffn.hidden,
        "norm_topk_prob": ffn.normalize,
        "router_aux_loss_coef": ffn.balance_weight,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Each expert's matrices are tensors of their own."""
    return [*named(LLAMA_NAMES, config), *expert_rules(config)]


def expert_rules(config: ModelConfig) -> list[Rule]:
    """The names of the router and of the experts."""
    count = next(block.ffn.n_experts for block in config.blocks if isinstance(block.ffn, MoEConfig))
    experts = "model.layers.{i}.mlp.experts.{e}"
    names = [(f"blocks.{{i}}.ffn.experts.{name}", f"{experts}.{name}_proj.weight") for name in ("gate", "up", "down")]
    router = same("blocks.{i}.ffn.router", "model.layers.{i}.mlp.gate")
    return [router, *(stacked(ours, theirs, count) for ours, theirs in names)]
