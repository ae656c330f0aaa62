"""The layers' hand-written backward passes against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foundling.models.context import Context
from foundling.models.layers.norm import RMSNormInTraining
from foundling.models.layers.short_attention import short_attention


def test_rms_norm_gradients() -> None:
    """A wrong term in the backward pass trains, only worse."""
    torch.manual_seed(0)
    x, w = torch.randn(3, 5, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    ours, theirs = RMSNormInTraining.apply(x, w, 1e-6), F.rms_norm(x, (8,), w, 1e-6)
    grad = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(o, (x, w), grad) for o in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("time", [7, 200])
def test_short_attention_equals_torch(kv_heads: int, masked: bool, time: int) -> None:
    """Stacking the query heads of a group must not mix up heads, rows or times; nor cut off keys that are seen."""
    rows, heads, dim = 3, 6, 4
    torch.manual_seed(0)
    q = torch.randn(rows, time, heads, dim, requires_grad=True)
    k, v = (torch.randn(rows, time, kv_heads, dim, requires_grad=True) for _ in range(2))
    visible = torch.ones(time, time).tril().bool().expand(rows, 1, time, time).clone()
    if masked:
        visible[1, :, 4:, :4] = False
        visible[:, :, 128:, :100] = False  # the second tile of queries looks at no key before 64
    bias = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf) if masked else None

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True).transpose(1, 2)

    ours, theirs = short_attention(q, k, v, bias, Context.full(rows, time)), reference(q, k, v)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    grad = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(o, (q, k, v), grad) for o in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
