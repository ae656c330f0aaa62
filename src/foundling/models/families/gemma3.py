"""Gemma 3, text (arXiv:2503.19786): normed queries and keys instead of caps, five windowed layers to a full one."""

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
from foundling.models.families.decoder import decoder, heads, windows
from foundling.models.families.fields import Fields
from foundling.models.families.gemma2 import gemma_to_hf
from foundling.models.families.gemma2 import rules as rules
from foundling.models.families.rope_fields import rope_of, rope_parameters
from foundling.models.layers.rope_config import RopeConfig

ARCHITECTURE = "Gemma3ForCausalLM"
POSITIONS = 131072


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Gemma3TextConfig."""
    n_layers = hf.take("num_hidden_layers", int)
    hf.expect("use_bidirectional_attention", False)
    hf.skip("cache_implementation")
    hf.expect("hidden_activation", "gelu_pytorch_tanh")
    norm = NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6), unit_offset=True)
    bias, (full, local) = hf.take("attention_bias", bool, False), _ropes(hf)
    scale = hf.take("query_pre_attn_scalar", int, 256) ** -0.5
    cap = hf.take("attn_logit_softcapping", float, None)
    common = {"qk_norm": norm, "qkv_bias": bias, "out_bias": bias, "softcap": cap, "scale": scale}
    common |= heads(hf, kv_heads=4, head_dim=256)
    every = hf.take("sliding_window_pattern", int, hf.take("_sliding_window_pattern", int, 6))
    default = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(n_layers)]
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int), activation="gelu_tanh")
    mixers = (
        AttentionConfig(**common, window=window, rope=local if window else full)
        for window in windows(hf, default, hf.take("sliding_window", int, 4096))
    )
    blocks = [BlockConfig(mixer=mixer, ffn=ffn, norms="sandwich") for mixer in mixers]
    head = HeadConfig(softcap=hf.take("final_logit_softcapping", float, None))
    scaled = EmbeddingConfig(scale=hf.take("hidden_size", int) ** 0.5)
    return decoder(hf, "gemma3_text", blocks, norm, tied=True, positions=POSITIONS, head=head, embedding=scaled)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Gemma3TextConfig."""
    fields = gemma_to_hf(config) | rope_by_type(config)
    return {name: value for name, value in fields.items() if name not in ("rope_theta", "rope_scaling")}


def rope_by_type(config: ModelConfig) -> dict[str, Any]:
    """The rope_parameters of the windowed and of the full layers."""
    ropes = {}
    for block in config.blocks:
        assert isinstance(block.mixer, AttentionConfig) and block.mixer.rope is not None
        ropes["sliding_attention" if block.mixer.window else "full_attention"] = rope_parameters(block.mixer.rope)
    return {"rope_parameters": ropes}


def _ropes(hf: Fields) -> tuple[RopeConfig, RopeConfig]:
    """Of the full and of the windowed layers, from either spelling."""
    positions = hf.take("max_position_embeddings", int, POSITIONS)
    given = hf.take("rope_parameters", dict, {})
    full = dict(given.get("full_attention") or {}) | dict(hf.take("rope_scaling", dict, {}))
    local = dict(given.get("sliding_attention") or {})
    full.setdefault("rope_theta", hf.take("rope_theta", float, 1e6))
    local.setdefault("rope_theta", hf.take("rope_local_base_freq", float, 1e4))
    return rope_of(full, hf.where, None, positions), rope_of(local, hf.where, None, positions)
