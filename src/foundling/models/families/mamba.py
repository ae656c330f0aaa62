"""Mamba (arXiv:2312.00752): a stack of selective state spaces and nothing else."""

from __future__ import annotations

import math
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.models.config import ModelConfig, NormConfig, uniform_blocks
from foundling.models.families.fields import Fields, token_fields
from foundling.models.layers.recurrent_config import MambaConfig
from foundling.models.tensor_rules import Rule, same

ARCHITECTURE = "MambaForCausalLM"
NAMES = {"embedding": "backbone.embeddings", "norm": "backbone.norm_f", "output": "lm_head"}
NAMES |= {"blocks.{i}.mixer_norm": "backbone.layers.{i}.norm"}
MIXER = ("A_log", "D", "in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a MambaConfig."""
    dim, rank = hf.take("hidden_size", int), hf.data.get("time_step_rank", "auto")
    hf.expect("hidden_act", "silu")
    hf.skip("time_step_rank", "expand", "residual_in_fp32", "rescale_prenorm_residual", "time_step_scale")
    hf.skip("time_step_min", "time_step_max", "time_step_floor", "time_step_init_scheme")  # of the initialisation
    hf.skip("use_mambapy", "use_associative_scan")  # ways to compute the same
    mixer = MambaConfig(
        inner=inner_width(hf, dim),
        state=hf.take("state_size", int, 16),
        conv=hf.take("conv_kernel", int, 4),
        dt_rank=math.ceil(dim / 16) if rank in ("auto", None) else hf.take("time_step_rank", int),
        conv_bias=hf.take("use_conv_bias", bool, True),
        proj_bias=hf.take("use_bias", bool, False),
    )
    return ModelConfig(
        family="mamba",
        vocab_size=hf.take("vocab_size", int),
        dim=dim,
        blocks=uniform_blocks(hf.take("num_hidden_layers", int), mixer, None),
        norm=NormConfig(eps=hf.take("layer_norm_epsilon", float, 1e-5)),
        tie_embeddings=hf.take("tie_word_embeddings", bool, True),
        **hf.tokens(),
    )


def inner_width(hf: Fields, dim: int) -> int:
    """Channels of the state space, which `transformers` derives and stores besides."""
    inner = int(hf.data.get("expand", 2) * dim)
    if hf.take("intermediate_size", int, inner) != inner:
        raise FoundlingError(f"{hf.where}: field 'intermediate_size' is not expand * hidden_size", f"expected: {inner}")
    return inner


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a MambaConfig."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, MambaConfig)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "state_size": mixer.state,
        "expand": mixer.inner / config.dim if mixer.inner % config.dim else mixer.inner // config.dim,
        "conv_kernel": mixer.conv,
        "time_step_rank": mixer.dt_rank,
        "use_bias": mixer.proj_bias,
        "use_conv_bias": mixer.conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """The same tensors under other names."""
    mixer = {f"blocks.{{i}}.mixer.{name}": f"backbone.layers.{{i}}.mixer.{name}" for name in MIXER}
    return [same(ours, theirs) for ours, theirs in (NAMES | mixer).items()]
