"""RMSNorm and LayerNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.config import NormConfig
from foundling.models.kernels import fused


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
        if x.requires_grad and len(weight) % fused.LANES == 0 and fused.suits(x, weight):
            return fused.rms_norm(x, weight, self.config.eps)
        return F.rms_norm(x, weight.shape, weight, self.config.eps)
