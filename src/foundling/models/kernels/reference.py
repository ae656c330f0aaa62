"""What the integer kernels compute, in plain PyTorch: the numbers of `matmul.h`, slowly."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.models.kernels.panels import activation_group
from foundling.models.quantized import QuantizedLinear


def round_activations(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes (..., k) in [-127, 127] and scales (..., k / group) of x (..., k): each group's largest becomes 127."""
    grouped = x.float().unflatten(-1, (-1, group))
    largest = grouped.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    codes = (grouped * inverse).round()
    return codes.flatten(-2), largest.squeeze(-1) / 127.0


def integer_linear(x: Tensor, layer: QuantizedLinear) -> Tensor:
    """x (..., in_features) -> (..., out_features) float32, with the inputs rounded to int8 as the kernels do."""
    group = activation_group(layer)
    codes, scales = round_activations(x, group)
    rounded = (codes.unflatten(-1, (-1, group)) * scales.unsqueeze(-1)).flatten(-2)
    y = rounded @ layer.dequantized(torch.float32).t()
    return y if layer.bias is None else y + layer.bias.float()
