"""Phi-3 and Phi-4-mini (arXiv:2404.14219): Llama with fused projections and LongRoPE."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, uniform_blocks
from foundling.models.families.decoder import LLAMA_NAMES, decoder, decoder_to_hf, heads, named
from foundling.models.families.fields import Fields
from foundling.models.families.rope_fields import rope_from_hf
from foundling.models.layers.rope_config import LongRopeScaling
from foundling.models.tensor_rules import Rule, fused

ARCHITECTURE = "Phi3ForCausalLM"
QKV = [f"blocks.{{i}}.mixer.{name}_proj" for name in "qkv"]
GATE_UP = ["blocks.{i}.ffn.gate", "blocks.{i}.ffn.up"]
NAMES = {ours: theirs for ours, theirs in LLAMA_NAMES.items() if ours not in (*QKV, *GATE_UP)}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Phi3Config."""
    hf.expect("hidden_act", "silu")
    rope = rope_from_hf(hf, positions=4096)
    mixer = AttentionConfig(**heads(hf), rope=rope, window=hf.take("sliding_window", int, None))
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int))
    blocks = uniform_blocks(hf.take("num_hidden_layers", int), mixer, ffn)
    return decoder(hf, "phi3", blocks, NormConfig(eps=hf.take("rms_norm_eps", float, 1e-5)), positions=4096)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Phi3Config, which has no head_dim."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig) and mixer.rope is not None
    scaling = mixer.rope.scaling
    original = scaling.original if isinstance(scaling, LongRopeScaling) else config.max_positions
    fields = decoder_to_hf(config) | {
        "sliding_window": mixer.window,
        "original_max_position_embeddings": original,
        "partial_rotary_factor": mixer.rope.fraction,
    }
    del fields["head_dim"]
    return fields


def rules(config: ModelConfig) -> list[Rule]:
    """Queries, keys and values are one of their tensors, gate and up another."""
    qkv, gate_up = "model.layers.{i}.self_attn.qkv_proj", "model.layers.{i}.mlp.gate_up_proj"
    return [*named(NAMES, config), fused(QKV, qkv), fused(GATE_UP, gate_up)]
