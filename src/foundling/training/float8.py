"""The matrix products of training in 8-bit floats, applied to any model from outside.

Micikevicius et al. 2022, "FP8 formats for deep learning" (arXiv:2209.05433): weights and activations in e4m3, gradients
in e5m2, each tensor scaled so that its largest value is the format's; sums in fp32, results in bf16. Only the linear
layers of the blocks: embeddings, norms, attention and the head stay as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.models.layers.block import Block

MULTIPLE = 16  # what the hardware asks of every size
CAPABILITY = (8, 9)  # of the first GPUs with such products (Ada, Hopper)
FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2


def use_float8(module: nn.Module) -> None:
    """Let the linear layers of a model's blocks compute in 8 bits while it trains; others are left alone.

    Layers of a size that is no multiple of 16 stay in bf16, as does every layer in eval mode.

    Raises:
        FoundlingError: a GPU without such products, or no layer of a size that has them.
    """
    device = next(module.parameters()).device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        found = torch.cuda.get_device_name(device)
        raise FoundlingError(f"{found} has no products of 8-bit floats", fix="Set precision to bf16")
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    linears = [part for block in blocks for part in block.modules() if type(part) is nn.Linear]
    fitting = [part for part in linears if part.in_features % MULTIPLE == part.out_features % MULTIPLE == 0]
    if not fitting:
        raise FoundlingError(f"no layer's sizes are multiples of {MULTIPLE}, as fp8 needs", fix="Set precision to bf16")
    for part in fitting:
        part.forward = partial(_forward, part)  # type: ignore[method-assign]


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    rows = x.numel() // layer.in_features
    if not layer.training or rows % MULTIPLE:
        return F.linear(x, layer.weight, layer.bias)
    y: Tensor = _Product.apply(x.reshape(rows, -1), layer.weight)  # type: ignore[no-untyped-call]
    y = y.unflatten(0, x.shape[:-1])
    return y if layer.bias is None else y + layer.bias


class _Product(torch.autograd.Function):
    """x (rows, in) and weight (out, in) -> (rows, out); keeps both in 8 bits for the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        (x8, x_scale), (w8, w_scale) = to_float8(x, FORWARD), to_float8(weight, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.dtype = x.dtype
        return _multiply(x8, w8.t(), x_scale, w_scale, x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = to_float8(gradients[0], BACKWARD)
        to_x = _multiply(g8, _columns(w8), g_scale, w_scale, ctx.dtype)
        to_weight = _multiply(g8.t().contiguous(), _columns(x8), g_scale, x_scale, ctx.dtype)
        return to_x, to_weight


def to_float8(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x / scale in 8 bits, scale): the largest |x| becomes the format's largest number."""
    top = torch.finfo(dtype).max
    scale = (x.detach().abs().amax().float() / top).clamp(min=1e-12)
    return (x.float() / scale).clamp(-top, top).to(dtype), scale


def _columns(x: Tensor) -> Tensor:
    """The same matrix, stored by columns, as the second factor must be."""
    return x.t().contiguous().t()


def _multiply(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype) -> Tensor:
    return torch._scaled_mm(a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=dtype)
