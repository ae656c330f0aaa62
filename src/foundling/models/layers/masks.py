"""Which key each query may see, as an additive bias: built once per pass and shared by the layers."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.models.context import Context


def self_mask(ctx: Context, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """Causal bias (rows or 1, 1, time, time) within segments, or None when plain causal attention says it all."""
    time = ctx.positions.shape[1]
    if ctx.segments is None and (window is None or window >= time):
        return None

    def make() -> Tensor:
        index = torch.arange(time, device=ctx.positions.device)
        visible = _in_window(index[:, None], index[None, :], window)[None, None]
        if ctx.segments is not None:
            visible = visible & (ctx.segments[:, None, :, None] == ctx.segments[:, None, None, :])
        return _bias(visible, dtype)

    return ctx.once(("self_mask", window, dtype), make)


def cached_mask(ctx: Context, n_keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Bias (rows, 1, time, n_keys) over cached keys in position order: key j is visible to a query at position >= j."""

    def make() -> Tensor:
        keys = torch.arange(n_keys, device=ctx.positions.device)
        return _bias(_in_window(ctx.positions[:, None, :, None], keys, window), dtype)

    return ctx.once(("cached_mask", n_keys, window, dtype), make)


def _in_window(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    visible = key <= query
    return visible if window is None else visible & (key > query - window)


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
