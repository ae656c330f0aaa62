"""Mistral (arXiv:2310.06825): Llama with a sliding window."""

from __future__ import annotations

from typing import Any

from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, uniform_blocks
from foundling.models.families.decoder import decoder, decoder_to_hf, heads
from foundling.models.families.fields import Fields
from foundling.models.families.llama import rules as rules
from foundling.models.families.rope_fields import rope_from_hf

ARCHITECTURE = "MistralForCausalLM"
POSITIONS = 131072


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a MistralConfig. A null window is none; an absent one is 4096."""
    hf.expect("hidden_act", "silu")
    window = hf.take("sliding_window", int, None if "sliding_window" in hf.data else 4096)
    mixer = AttentionConfig(**heads(hf, kv_heads=8), rope=rope_from_hf(hf, positions=POSITIONS), window=window)
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int))
    blocks = uniform_blocks(hf.take("num_hidden_layers", int), mixer, ffn)
    return decoder(hf, "mistral", blocks, NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6)), positions=POSITIONS)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a MistralConfig."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig)
    return decoder_to_hf(config) | {"sliding_window": mixer.window}
