"""Training attention for short rows on a CPU: all scores held at once, as plain batched matrix products.

For what attention in tiles (`kernels/fused.py`) does not take. torch's CPU kernel for `scaled_dot_product_attention`
runs far below the matrix rate (`benchmarks/training_kernels.py`). The scores cost up to rows · heads · time² numbers a
layer, which is why long rows go the other way. Queries are taken in tiles, each with the keys that some token of it
sees: later ones, and those of other sequences packed into the rows, are left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from foundling.models.context import Context

LONGEST = 512
TILE = 128  # queries; fewer would make the products too small
GRAIN = 64  # keys: a CPU's library keeps a compiled product for every shape, some MB each, and likes whole tiles
Spans = list[tuple[int, int]]  # of each tile of queries the keys [first, end) that matter


def suits(q: Tensor, k: Tensor, mask: Tensor | None) -> bool:
    """Whether a training pass over q and k (rows, time, heads, head_dim) should take this way."""
    if mask is not None and mask.requires_grad:
        return False
    return (
        q.device.type == "cpu" and q.shape[1] == k.shape[1] <= LONGEST and torch.is_grad_enabled() and q.requires_grad
    )


def spans(mask: Tensor | None, time: int, ctx: Context | None) -> Spans:
    """Which keys each tile of queries needs; found once per pass, and all where that is not worth it."""
    if mask is None:
        return [(0, min(first + TILE, time)) for first in range(0, time, TILE)]
    if ctx is None or torch.compiler.is_compiling():  # a graph must not depend on how this batch is packed
        return [(0, time)] * -(-time // TILE)

    def find() -> Spans:
        seen = (mask > -torch.inf).flatten(0, 1).any(0)  # (time, time)
        found = []
        for part in seen.split(TILE):
            keys = part.any(0).nonzero()[:, 0]
            first, last = (int(keys[0]), int(keys[-1])) if len(keys) else (0, 0)
            found.append((first // GRAIN * GRAIN, min((last // GRAIN + 1) * GRAIN, time)))
        return found

    return ctx.once(("spans", id(mask)), find)


def short_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, ctx: Context | None = None) -> Tensor:
    """softmax(q kᵀ / √d + mask) v; q (rows, time, heads, d), k and v (rows, time, kv_heads, d) -> q's shape.

    Args:
        mask: additive, (rows or 1, heads or 1, time, time); None is causal.
        ctx: of the pass that the mask belongs to.
    """
    time = q.shape[1]
    tiles = spans(mask, time, ctx)
    if mask is None:
        mask = torch.full((1, 1, time, time), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
    out: Tensor = _ShortAttention.apply(q, k, v, mask, tiles)
    return out


class _ShortAttention(torch.autograd.Function):
    """Query heads that share a key head are stacked along time, so that keys and values are never repeated."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, tiles: Spans) -> Tensor:  # type: ignore[override]
        rows, _, heads, dim = q.shape
        kv_heads = k.shape[2]
        keys, values = _by_key_head(k, kv_heads), _by_key_head(v, kv_heads)  # (rows · kv_heads, time, dim)
        out = torch.empty_like(q)
        saved = []
        for part, (first, end) in zip(_tiles(q), tiles, strict=True):
            queries = _by_key_head(q[:, part], kv_heads)  # (rows · kv_heads, heads / kv_heads · tile, dim)
            scores = queries.new_empty(*queries.shape[:2], end - first)
            scores.view(rows, heads, -1, end - first).copy_(mask[:, :, part, first:end])
            scores.baddbmm_(queries, keys[:, first:end].mT, alpha=1 / math.sqrt(dim))
            weights = torch.softmax(scores, -1)
            out[:, part] = _by_token(torch.bmm(weights, values[:, first:end]), rows, heads // kv_heads)
            saved += [queries, weights]
        ctx.save_for_backward(keys, values, *saved)
        ctx.tiles, ctx.heads = tiles, heads
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        keys, values, *saved = ctx.saved_tensors
        rows, _, heads, dim = grad.shape
        kv_heads = keys.shape[0] // rows
        group, scale = heads // kv_heads, 1 / math.sqrt(dim)
        grad_q, grad_k, grad_v = torch.empty_like(grad), torch.zeros_like(keys), torch.zeros_like(values)
        for i, (part, (first, end)) in enumerate(zip(_tiles(grad), ctx.tiles, strict=True)):
            queries, weights = saved[2 * i : 2 * i + 2]
            grad_out = _by_key_head(grad[:, part], kv_heads)
            grad_weights = torch.bmm(grad_out, values[:, first:end].mT)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[:, part] = _by_token(torch.bmm(grad_scores, keys[:, first:end]).mul_(scale), rows, group)
            grad_k[:, first:end].baddbmm_(grad_scores.mT, queries, alpha=scale)
            grad_v[:, first:end].baddbmm_(weights.mT, grad_out)
        return grad_q, _by_token(grad_k, rows, 1), _by_token(grad_v, rows, 1), None, None


def _tiles(x: Tensor) -> list[slice]:
    """Where the tiles of x (rows, time, ...) lie in time."""
    return [slice(first, min(first + TILE, x.shape[1])) for first in range(0, x.shape[1], TILE)]


def _by_key_head(x: Tensor, kv_heads: int) -> Tensor:
    """(rows, time, heads, dim) -> (rows · kv_heads, heads / kv_heads · time, dim)."""
    rows, time, heads, dim = x.shape
    return x.transpose(1, 2).reshape(rows * kv_heads, heads // kv_heads * time, dim)


def _by_token(x: Tensor, rows: int, group: int) -> Tensor:
    """The inverse of `_by_key_head`, for `group` query heads to a key head."""
    time = x.shape[1] // group
    return x.view(rows, -1, time, x.shape[2]).transpose(1, 2)
