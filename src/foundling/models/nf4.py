"""Frozen linear layers in NF4, the 4-bit code of QLoRA (Dettmers et al. 2023, arXiv:2305.14314): for training beside.

A weight is CODE[index] * (largest magnitude of its block of 64). The sixteen values are quantiles of a normal
distribution, so that each is used equally often by weights that are normally distributed (appendix E). Such layers live
in memory only: what is saved is the adapter, and the merged weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64
CODE = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class NF4Linear(nn.Module):
    """y = x W^T + b with W in NF4: half a byte a weight and a float32 for each 64 of them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.dtype = linear.weight.dtype
        packed, scale = quantize(linear.weight.detach())
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features) in x's dtype. The weights are unpacked and not kept."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self._dense(x.dtype), bias)

    @property
    def weight(self) -> Tensor:
        """The weights as numbers (out_features, in_features), unpacked at each use."""
        return self._dense(self.dtype)

    def _dense(self, dtype: torch.dtype) -> Tensor:
        assert isinstance(self.packed, Tensor) and isinstance(self.scale, Tensor)
        return dequantize(self.packed, self.scale, (self.out_features, self.in_features)).to(dtype)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Packed indices (numel/2 bytes, the first of a pair in the high bits) and each block's largest magnitude.

    The number of weights need not be a multiple of the block: the last one is filled with zeros.
    """
    flat = F.pad(weight.float().flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    scale = flat.abs().amax(1)
    code = torch.tensor(CODE, device=weight.device)
    borders = (code[1:] + code[:-1]) / 2
    index = torch.bucketize(flat / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None], borders)
    pairs = index.to(torch.uint8).view(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1], scale


def dequantize(packed: Tensor, scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """The float32 weights that packed indices and scales stand for."""
    index = torch.stack((packed >> 4, packed & 15), 1).view(-1, BLOCK).long()
    values = torch.tensor(CODE, device=packed.device)[index] * scale[:, None]
    return values.flatten()[: shape[0] * shape[1]].view(shape)
