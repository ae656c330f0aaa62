"""Mixtral (arXiv:2401.04088): Mistral with eight experts in place of each feed-forward, two of them per token."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, ModelConfig, MoEConfig, NormConfig, uniform_blocks
from foundling.models.families.decoder import LLAMA_NAMES, decoder, decoder_to_hf, heads, named
from foundling.models.families.fields import Fields
from foundling.models.families.rope_fields import rope_from_hf
from foundling.models.tensor_rules import Rule, same, stacked

ARCHITECTURE = "MixtralForCausalLM"
POSITIONS = 131072
EXPERTS = {"gate": "w1", "up": "w3", "down": "w2"}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a MixtralConfig."""
    hf.expect("hidden_act", "silu")
    rope = rope_from_hf(hf, theta=1e6, positions=POSITIONS)
    mixer = AttentionConfig(**heads(hf, kv_heads=8), rope=rope, window=hf.take("sliding_window", int, None))
    ffn = MoEConfig(
        n_experts=hf.take("num_local_experts", int, 8),
        top_k=hf.take("num_experts_per_tok", int, 2),
        hidden=hf.take("intermediate_size", int),
        normalize=True,
        balance_weight=hf.take("router_aux_loss_coef", float, 0.001),
    )
    blocks = uniform_blocks(hf.take("num_hidden_layers", int), mixer, ffn)
    return decoder(hf, "mixtral", blocks, NormConfig(eps=hf.take("rms_norm_eps", float, 1e-5)), positions=POSITIONS)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a MixtralConfig."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MoEConfig)
    return decoder_to_hf(config) | {
        "sliding_window": mixer.window,
        "num_local_experts": ffn.n_experts,
        "num_experts_per_tok": ffn.top_k,
        "intermediate_size": ffn.hidden,
        "router_aux_loss_coef": ffn.balance_weight,
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Each expert's matrices are tensors of their own."""
    ffn, layer = config.blocks[0].ffn, "model.layers.{i}.block_sparse_moe"
    assert isinstance(ffn, MoEConfig)
    experts = [
        stacked(f"blocks.{{i}}.ffn.experts.{ours}", f"{layer}.experts.{{e}}.{theirs}.weight", ffn.n_experts)
        for ours, theirs in EXPERTS.items()
    ]
    return [*named(LLAMA_NAMES, config), same("blocks.{i}.ffn.router", f"{layer}.gate"), *experts]
