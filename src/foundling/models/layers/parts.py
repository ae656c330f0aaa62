"""From a part's config to its module: where each kind of mixer and feed-forward lives, imported when first used."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foundling.models.config import FeedForwardConfig, MixerConfig
from foundling.models.context import Context

LayerState = Any  # what a mixer's new_state returns: paged keys and values, or one slot per sequence

MIXERS = {
    "attention": "foundling.models.layers.attention:Attention",
    "mla": "foundling.models.layers.mla:MLA",
    "mamba": "foundling.models.layers.mamba:Mamba",
    "mamba2": "foundling.models.layers.mamba2:Mamba2",
    "s4": "foundling.models.layers.s4:S4",
    "h3": "foundling.models.layers.h3:H3",
    "rwkv4": "foundling.models.layers.rwkv4:RWKV4",
    "rwkv4_channel": "foundling.models.layers.rwkv4:RWKV4Channel",
    "rwkv7": "foundling.models.layers.rwkv7:RWKV7",
    "recurrent": "foundling.models.layers.recurrent:Recurrent",
}
FEED_FORWARDS = {"mlp": "foundling.models.layers.mlp:MLP", "moe": "foundling.models.layers.moe:MoE"}


class Mixer(Protocol):
    """What every mixer offers beside being a module. Constructor: (config, dim)."""

    def __call__(self, x: Tensor, ctx: Context, state: LayerState | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim). With a state: continue from it and update it in place."""
        ...

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> LayerState:
        """Room for `slots` sequences (recurrent) or `blocks` blocks of `block_size` tokens (attention)."""
        ...


def make_mixer(config: MixerConfig, dim: int) -> nn.Module:
    """The mixer module of a config, for a residual stream of width `dim`."""
    return _load(MIXERS[config.kind])(config, dim)


def make_feed_forward(config: FeedForwardConfig, dim: int) -> nn.Module:
    """The feed-forward module of a config."""
    return _load(FEED_FORWARDS[config.kind])(config, dim)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
