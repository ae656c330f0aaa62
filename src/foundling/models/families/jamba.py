"""Jamba (arXiv:2403.19887): Mamba with an attention layer now and then (no positions), experts in every other layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig
from foundling.models.families.decoder import decoder, heads, named
from foundling.models.families.fields import Fields, token_fields
from foundling.models.layers.recurrent_config import MambaConfig
from foundling.models.tensor_rules import Rule, same, stacked

ARCHITECTURE = "JambaForCausalLM"
POSITIONS = 262144
NAMES = {"embedding": "model.embed_tokens", "norm": "model.final_layernorm", "output": "lm_head"}
LAYER = {"mixer_norm": "input_layernorm", "ffn_norm": "pre_ff_layernorm", "ffn.router": "feed_forward.router"}
LAYER |= {f"ffn.{name}": f"feed_forward.{name}_proj" for name in ("gate", "up", "down")}
LAYER |= {f"mixer.{name}": f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
MAMBA = {name: name for name in ("A_log", "D", "in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")}
MAMBA |= {f"{name}_norm": f"{name}_layernorm" for name in ("dt", "b", "c")}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a JambaConfig."""
    dim, layers = hf.take("hidden_size", int), hf.take("num_hidden_layers", int)
    eps, hidden, rank = (
        hf.take("rms_norm_eps", float, 1e-6),
        hf.take("intermediate_size", int, 14336),
        math.ceil(dim / 16),
    )
    hf.expect("hidden_act", "silu")
    hf.skip("output_router_logits", "use_mamba_kernels", "use_mambapy", "use_associative_scan", "mamba_dt_rank")
    attention = AttentionConfig(**heads(hf, kv_heads=8))
    mamba = MambaConfig(
        inner=hf.take("mamba_expand", int, 2) * dim,
        state=hf.take("mamba_d_state", int, 16),
        conv=hf.take("mamba_d_conv", int, 4),
        dt_rank=rank if hf.data.get("mamba_dt_rank", "auto") == "auto" else hf.take("mamba_dt_rank", int, rank),
        conv_bias=hf.take("mamba_conv_bias", bool, True),
        proj_bias=hf.take("mamba_proj_bias", bool, False),
        inner_norm_eps=eps,
    )
    n_experts, balance = hf.take("num_experts", int, 16), hf.take("router_aux_loss_coef", float, 0.001)
    moe = MoEConfig(
        n_experts=n_experts, top_k=hf.take("num_experts_per_tok", int, 2), hidden=hidden, balance_weight=balance
    )
    every, at = hf.take("attn_layer_period", int, 8), hf.take("attn_layer_offset", int, 4)
    moe_every, moe_at = hf.take("expert_layer_period", int, 2), hf.take("expert_layer_offset", int, 1)
    blocks = [
        BlockConfig(
            mixer=attention if i % every == at else mamba,
            ffn=moe if i % moe_every == moe_at and n_experts > 1 else MLPConfig(hidden=hidden),
        )
        for i in range(layers)
    ]
    return decoder(hf, "jamba", blocks, NormConfig(eps=eps), positions=POSITIONS)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a JambaConfig."""
    mixers, ffns = [block.mixer for block in config.blocks], [block.ffn for block in config.blocks]
    attention = next(part for part in mixers if isinstance(part, AttentionConfig))
    mamba = next(part for part in mixers if isinstance(part, MambaConfig))
    moe = next((part for part in ffns if isinstance(part, MoEConfig)), MoEConfig(n_experts=1, top_k=1, hidden=1))
    hidden = next(part.hidden for part in ffns if part is not None)
    every, at = _period([isinstance(part, AttentionConfig) for part in mixers])
    moe_every, moe_at = _period([isinstance(part, MoEConfig) for part in ffns])
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": hidden,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "num_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k,
        "router_aux_loss_coef": moe.balance_weight,
        "expert_layer_period": moe_every,
        "expert_layer_offset": moe_at,
        "attn_layer_period": every,
        "attn_layer_offset": at,
        "mamba_expand": mamba.inner // config.dim,
        "mamba_d_state": mamba.state,
        "mamba_d_conv": mamba.conv,
        "mamba_dt_rank": mamba.dt_rank,
        "mamba_conv_bias": mamba.conv_bias,
        "mamba_proj_bias": mamba.proj_bias,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Each expert's matrices are tensors of their own."""
    names = NAMES | {f"blocks.{{i}}.{ours}": f"model.layers.{{i}}.{theirs}" for ours, theirs in LAYER.items()}
    mamba = {f"blocks.{{i}}.mixer.{ours}": f"model.layers.{{i}}.mamba.{theirs}" for ours, theirs in MAMBA.items()}
    moe = next((block.ffn for block in config.blocks if isinstance(block.ffn, MoEConfig)), None)
    experts = [
        stacked(f"blocks.{{i}}.ffn.experts.{part}", _expert(part), moe.n_experts)
        for part in ("gate", "up", "down")
        if moe is not None
    ]
    return [*named(names, config), *(same(ours, theirs) for ours, theirs in mamba.items()), *experts]


def _expert(part: str) -> str:
    return f"model.layers.{{i}}.feed_forward.experts.{{e}}.{part}_proj.weight"


def _period(chosen: Sequence[bool]) -> tuple[int, int]:
    """How far apart the chosen layers are, and the first: what JambaConfig makes the same choice from."""
    indices = [i for i, is_chosen in enumerate(chosen) if is_chosen]
    if not indices:
        return len(chosen) + 1, len(chosen)
    return (indices[1] - indices[0] if len(indices) > 1 else len(chosen)), indices[0]
