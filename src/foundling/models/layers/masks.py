"""Which key each query may see, and with what bias, as one additive term: built once per pass, shared by the layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foundling.models.config import AttentionConfig
from foundling.models.context import Context, Encoded, Tree


def self_mask(config: AttentionConfig, ctx: Context, dtype: torch.dtype) -> Tensor | None:
    """Bias (rows or 1, heads or 1, time, time) of uncached attention, or None if `causal` alone says it all."""
    if ctx.tree is not None:
        return _tree_mask(config, ctx, ctx.tree, dtype)
    time = ctx.positions.shape[1]
    windowed = config.window is not None and config.window < time
    biased = config.alibi or config.relative_bias
    if ctx.segments is None and ctx.prefix is None and not windowed and not biased:
        return None

    def make() -> Tensor:
        index = torch.arange(time, device=ctx.positions.device)
        query, key = index[:, None], index[None, :]
        visible = _visible(config, ctx, query, key)
        if ctx.segments is not None:
            visible = visible & (ctx.segments[:, None, :, None] == ctx.segments[:, None, None, :])
        return _bias(config, ctx, visible, query, key, dtype)

    return ctx.once(("self_mask", *_kind(config), dtype), make)


def key_ranges(config: AttentionConfig, ctx: Context) -> tuple[Tensor | None, Tensor | None] | None:
    """The keys [first, end) of each token, (rows, time) int32, where they say all that `self_mask` would; else None.

    None in place of the first is 0, in place of the end the token itself.
    """
    if ctx.tree is not None or config.alibi or config.relative_bias:
        return None
    time = ctx.positions.shape[1]
    windowed = config.window is not None and config.window < time
    if config.causal and ctx.segments is None and ctx.prefix is None and not windowed:
        return None, None

    def make() -> tuple[Tensor, Tensor]:
        index = torch.arange(time, device=ctx.positions.device).expand_as(ctx.positions)
        first, end_of_segment = _segment_bounds(ctx.segments, index)
        end = index + 1 if config.causal else torch.full_like(index, time)
        if ctx.prefix is not None:
            end = end.maximum(ctx.prefix[:, None])
        if config.window is not None:
            first, end = first.maximum(index + 1 - config.window), end.minimum(index + config.window)
        return first.int().contiguous(), end.minimum(end_of_segment).int().contiguous()

    return ctx.once(("key_ranges", *_kind(config)), make)


def _segment_bounds(segments: Tensor | None, index: Tensor) -> tuple[Tensor, Tensor]:
    """Where the segment of each token begins and ends: (rows, time) each, `index` is the tokens' place in the row."""
    time = index.shape[1]
    if segments is None:
        return torch.zeros_like(index), torch.full_like(index, time)
    new = F.pad(segments[:, 1:] != segments[:, :-1], (1, 1), value=True)  # before each token, and after the last
    begins = torch.where(new[:, :-1], index, 0).cummax(1).values
    ends = torch.where(new[:, 1:], index + 1, time).flip(1).cummin(1).values.flip(1)
    return begins, ends


def cached_mask(config: AttentionConfig, ctx: Context, n_keys: int, dtype: torch.dtype) -> Tensor:
    """Bias (rows, heads or 1, time, n_keys) over cached keys, which lie in position order unless in a tree."""
    if ctx.tree is not None:
        return _tree_mask(config, ctx, ctx.tree, dtype)

    def make() -> Tensor:
        key = torch.arange(n_keys, device=ctx.positions.device)
        query = ctx.positions[:, None, :, None]
        return _bias(config, ctx, _visible(config, ctx, query, key), query, key, dtype)

    return ctx.once(("cached_mask", n_keys, *_kind(config), dtype), make)


def _tree_mask(config: AttentionConfig, ctx: Context, tree: Tree, dtype: torch.dtype) -> Tensor:
    def make() -> Tensor:
        query, key = ctx.positions[:, None, :, None], tree.positions[:, None, None, :]
        return _bias(config, ctx, _visible(config, ctx, query, key) & tree.visible[:, None], query, key, dtype)

    return ctx.once(("tree_mask", *_kind(config), dtype), make)


def cross_mask(ctx: Context, encoded: Encoded, dtype: torch.dtype) -> Tensor | None:
    """Bias (rows, 1, time, encoder time): a token sees the encoder's tokens of its own segment."""
    theirs = encoded.segments
    if theirs is None:
        return None

    def make() -> Tensor:
        if ctx.segments is None:
            visible = (theirs != -1)[:, None, None, :].expand(-1, -1, ctx.positions.shape[1], -1)
        else:  # padding sees everything: a row without keys would be NaN
            ours = ctx.segments[:, None, :, None]
            visible = (ours == theirs[:, None, None, :]) | (ours == -1)
        return _blocked(visible, dtype)

    return ctx.once(("cross_mask", dtype), make)


def alibi_slopes(n_heads: int) -> list[float]:
    """ALiBi's slope of each head: 2^(-8 i / n), with the paper's rule for head counts that are no power of two."""
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    extra = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (n_heads - power), 2)]
    return slopes + extra


def _kind(config: AttentionConfig) -> tuple[object, ...]:
    return config.causal, config.window, config.n_heads if config.alibi else None, config.relative_bias


def _visible(config: AttentionConfig, ctx: Context, query: Tensor, key: Tensor) -> Tensor:
    distance = query - key
    visible = distance >= 0 if config.causal else torch.ones_like(distance, dtype=torch.bool)
    if ctx.prefix is not None:
        visible = visible | (key < ctx.prefix[:, None, None, None])
    if config.window is not None:
        visible = visible & (distance.abs() < config.window)
    return visible if visible.dim() == 4 else visible[None, None]


def _bias(
    config: AttentionConfig, ctx: Context, visible: Tensor, query: Tensor, key: Tensor, dtype: torch.dtype
) -> Tensor:
    mask = _blocked(visible, dtype)
    if config.alibi:
        slopes = torch.tensor(alibi_slopes(config.n_heads), device=mask.device).view(-1, 1, 1)
        mask = mask - (slopes * (query - key).abs()).to(dtype)
    if config.relative_bias:
        assert ctx.relative_bias is not None, "the stack has no relative bias"
        mask = mask + ctx.relative_bias(query, key).to(dtype)
    return mask


def _blocked(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
