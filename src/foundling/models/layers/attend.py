"""The core of attention, softmax(q k^T / sqrt(d) + mask) v, by whichever form is fastest for the shapes at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foundling.models.context import Context
from foundling.models.layers.short_attention import short_attention, suits


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    causal: bool = True,
    softcap: float | None = None,
    ctx: Context | None = None,
) -> Tensor:
    """Attention of q (rows, time, heads, d) to k and v (rows, keys, kv_heads, d); returns q's shape.

    Args:
        mask: additive bias, (rows or 1, heads or 1, time, keys); it must hold the causal mask too.
        causal: what no mask means.
        softcap: cap of the logits.
        ctx: of the pass that the mask belongs to, so that what is seen of it is worked out once.
    """
    rows, time, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    if softcap is not None:
        return _capped(q, k, v, mask, causal, softcap)
    if (causal or mask is not None) and suits(q, k, mask) and v.shape[-1] == head_dim:
        return short_attention(q, k, v, mask, ctx)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if time == 1 and mask is not None:
        # The heads of a group see the same keys: as rows of one product they read them once (5-8x faster in bfloat16).
        group = heads // kv_heads
        folded = q.view(rows, kv_heads, group, head_dim)
        one = mask.shape[1] == 1
        mask = mask.expand(rows, 1, group, -1) if one else mask.expand(rows, -1, 1, -1).view(rows, kv_heads, group, -1)
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).reshape(rows, 1, heads, v.shape[-1])
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=heads != kv_heads
    )
    return out.transpose(1, 2)


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, softcap: float) -> Tensor:
    """cap * tanh(logits / cap) before the softmax (Gemma 2, arXiv:2408.00118); no fused kernel has it on a CPU."""
    group = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, dim=2).transpose(1, 2) for x in (k, v))
    scores = q.transpose(1, 2) @ k.mT * q.shape[-1] ** -0.5  # (rows, heads, time, keys)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    elif causal:
        blocked = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(blocked, -torch.inf)
    return (scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v).transpose(1, 2)
