"""Mamba-2 (arXiv:2405.21060): a stack of state space duals and nothing else."""

from __future__ import annotations

import math
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.models.config import ModelConfig, NormConfig, uniform_blocks
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.mamba import NAMES
from foundling.models.layers.recurrent_config import Mamba2Config
from foundling.models.tensor_rules import Rule, same

ARCHITECTURE = "Mamba2ForCausalLM"
UNLIMITED = {"__float__": "Infinity"}  # how `transformers` writes it in JSON
MIXER = ("A_log", "D", "dt_bias", "in_proj", "conv1d", "norm", "out_proj")


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a Mamba2Config."""
    dim, eps = hf.take("hidden_size", int), hf.take("layer_norm_epsilon", float, 1e-5)
    hf.expect("hidden_act", "silu")
    hf.skip("expand", "residual_in_fp32", "rescale_prenorm_residual", "time_step_rank")
    hf.skip("time_step_min", "time_step_max", "time_step_floor")  # of the initialisation
    low, high = hf.take("time_step_limit", list, [0.0, UNLIMITED])
    mixer = Mamba2Config(
        n_heads=hf.take("num_heads", int, 128),
        head_dim=hf.take("head_dim", int, 64),
        state=hf.take("state_size", int, 128),
        n_groups=hf.take("n_groups", int, 8),
        conv=hf.take("conv_kernel", int, 4),
        chunk=hf.take("chunk_size", int, 256),
        conv_bias=hf.take("use_conv_bias", bool, True),
        proj_bias=hf.take("use_bias", bool, False),
        norm_eps=eps,
        dt_min=low,
        dt_max=None if high in (UNLIMITED, math.inf) else high,
    )
    inner = mixer.n_heads * mixer.head_dim
    if int(hf.data.get("expand", 2) * dim) != inner:
        raise FoundlingError(f"{hf.where}: field 'expand' times hidden_size is not num_heads * head_dim, {inner}")
    return ModelConfig(
        family="mamba2",
        vocab_size=hf.take("vocab_size", int),
        dim=dim,
        blocks=uniform_blocks(hf.take("num_hidden_layers", int), mixer, None),
        norm=NormConfig(eps=eps),
        tie_embeddings=hf.take("tie_word_embeddings", bool, False),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Mamba2Config."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, Mamba2Config)
    inner = mixer.n_heads * mixer.head_dim
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_heads": mixer.n_heads,
        "head_dim": mixer.head_dim,
        "state_size": mixer.state,
        "n_groups": mixer.n_groups,
        "expand": inner / config.dim if inner % config.dim else inner // config.dim,
        "conv_kernel": mixer.conv,
        "chunk_size": mixer.chunk,
        "use_bias": mixer.proj_bias,
        "use_conv_bias": mixer.conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm.eps,
        "time_step_limit": [mixer.dt_min, UNLIMITED if mixer.dt_max is None else mixer.dt_max],
        "tie_word_embeddings": config.tie_embeddings,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """The same tensors under other names."""
    mixer = {f"blocks.{{i}}.mixer.{name}": f"backbone.layers.{{i}}.mixer.{name}" for name in MIXER}
    return [same(ours, theirs) for ours, theirs in (NAMES | mixer).items()]
