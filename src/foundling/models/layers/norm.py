"""RMSNorm and LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.config import NormConfig


class Norm(nn.Module):
    """RMSNorm, x / rms(x) * weight (arXiv:1910.07467), or LayerNorm (arXiv:1607.06450) over the last dimension."""

    def __init__(self, dim: int, config: NormConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if config.bias else None

    def init_weights(self, generator: torch.Generator) -> None:
        """The identity scale."""
        nn.init.constant_(self.weight, 0.0 if self.config.unit_offset else 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., dim)."""
        weight = self.weight.to(x.dtype)
        if self.config.unit_offset:
            weight = weight + 1
        if self.config.kind == "layer":
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return F.layer_norm(x, weight.shape, weight, bias, self.config.eps)
        if x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = RMSNormInTraining.apply(x, weight, self.config.eps)
            return out
        return F.rms_norm(x, weight.shape, weight, self.config.eps)


class RMSNormInTraining(torch.autograd.Function):
    """torch's RMSNorm with a backward pass of fewer passes over memory: on a CPU torch composes it from small steps.

    With n = x / rms(x) and g the gradient: dw = sum g n, dx = (g w - n mean(g w n)) / rms(x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        """x (..., dim), weight (dim,) -> x's shape."""
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        """The gradients of x and weight."""
        x, weight = ctx.saved_tensors
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = (length.square() / x.shape[-1] + ctx.eps).rsqrt().to(x.dtype)  # (..., 1)
        normed = x * scale
        product = grad * normed
        mean = (product @ weight).unsqueeze(-1) / -x.shape[-1]
        grad_weight = product.flatten(0, -2).sum(0)
        grad_x = torch.addcmul(torch.mul(grad, weight, out=product), normed, mean).mul_(scale)
        return grad_x, grad_weight, None
