"""Linear layers with integer weights, in compressed-tensors' pack-quantized form that vLLM and transformers read.

A weight is code * scale, or (code - zero_point) * scale, with one scale per group of `group_size` inputs of an output
row. This file stores, reads and multiplies them; choosing good codes is `compression`'s work.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError
from foundling.models.packing import pack, unpack

# Above so many rows the integer kernels lose to one dequantization and a dense product (measured, AVX-512 with BF16).
KERNEL_ROWS = 4
KERNEL_GROUPS = (32, 64, 128, 256)


class Scheme(Config):
    """How the weights of a layer are quantized."""

    bits: Literal[4, 8] = option(4, "bits per weight")
    group_size: int | None = option(32, "inputs that share a scale; null: all inputs of an output", gt=0)
    symmetric: bool = option(True, "no zero points")


class QuantizedLinear(nn.Module):
    """y = x W^T + b with W in 4- or 8-bit codes. Made by `quantize_linear` or by loading; weights are not trained."""

    weight_packed: Tensor
    weight_scale: Tensor
    weight_shape: Tensor
    weight_zero_point: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool, scheme: Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        groups = in_features // group_size(scheme, in_features)
        words, zero_words = -(-in_features * scheme.bits // 32), -(-out_features * scheme.bits // 32)
        self.register_buffer("weight_packed", torch.zeros(out_features, words, dtype=torch.int32))
        self.register_buffer("weight_scale", torch.zeros(out_features, groups))
        self.register_buffer("weight_shape", torch.tensor([out_features, in_features], device="cpu"))
        zeros = None if scheme.symmetric else torch.zeros(zero_words, groups, dtype=torch.int32)
        self.register_buffer("weight_zero_point", zeros)  # packed along the outputs
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        self._kernel: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features) in x's dtype."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if x.numel() <= KERNEL_ROWS * self.in_features and self._kernel_fits(x):
            y = self._kernel_product(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
            return y if self.bias is None else y + self.bias.to(y.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dequantized(x.dtype), bias)

    @property
    def weight(self) -> Tensor:
        """The weights as numbers (out_features, in_features), in the scales' dtype; computed at each use."""
        return self.dequantized(self.weight_scale.dtype)

    def codes(self) -> Tensor:
        """The signed integer codes, (out_features, in_features) int8."""
        return unpack(self.weight_packed, self.scheme.bits, self.in_features)

    def zero_points(self) -> Tensor | None:
        """The codes that stand for zero, (out_features, groups) int8, or None where that is 0."""
        if self.weight_zero_point is None:
            return None
        return unpack(self.weight_zero_point.t(), self.scheme.bits, self.out_features).t()

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(code - zero_point) * scale, (out_features, in_features)."""
        return dequantize(self.codes(), self.weight_scale.to(dtype), self.zero_points())

    def extra_repr(self) -> str:
        """Shape and scheme, for print(module)."""
        return f"{self.in_features}, {self.out_features}, {self.scheme}"

    def _kernel_fits(self, x: Tensor) -> bool:
        """The CPU kernels are right and fast for bfloat16 and symmetric codes; float32 runs them fifty times slower."""
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or not self.scheme.symmetric or x.dim() < 2:
            return False
        if self.scheme.bits == 8:
            return self.weight_scale.shape[1] == 1
        return self.scheme.group_size in KERNEL_GROUPS and self.out_features % 16 == 0

    def _kernel_product(self, x: Tensor) -> Tensor:
        if self._kernel is None or self._kernel[0] is not self.weight_packed:
            self._kernel = (self.weight_packed, *self._kernel_weights())
        _, weights, scales = self._kernel
        if self.scheme.bits == 8:
            return torch._weight_int8pack_mm(x, weights, scales)
        assert self.scheme.group_size is not None
        return torch._weight_int4pack_mm_for_cpu(x, weights, self.scheme.group_size, scales)

    def _kernel_weights(self) -> tuple[Tensor, Tensor]:
        scales = self.weight_scale.to(torch.bfloat16)
        if self.scheme.bits == 8:
            return self.codes(), scales.flatten()
        packed = torch._convert_weight_to_int4pack_for_cpu(self.codes().to(torch.int32) + 8, 1)
        return packed, torch.stack((scales.t(), torch.zeros_like(scales.t())), dim=-1).contiguous()


def group_size(scheme: Scheme, in_features: int) -> int:
    """Inputs per scale.

    Raises:
        FoundlingError: if the inputs do not divide into groups.
    """
    size = scheme.group_size or in_features
    if in_features % size:
        raise FoundlingError(
            f"group_size {size} does not divide a layer's {in_features} inputs", "", "Choose a divisor such as 32."
        )
    return size


def dequantize(codes: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
    """(code - zero point) * scale, in the scales' dtype. codes (out, in) int8; scales, zero_points (out, groups)."""
    grouped = codes.unflatten(1, (scales.shape[1], -1)).to(scales.dtype)
    if zero_points is not None:
        grouped = grouped - zero_points.to(scales.dtype).unsqueeze(2)
    return (grouped * scales.unsqueeze(2)).flatten(1)


def round_to_nearest(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes (out, in) int8, scales (out, groups) in the weight's dtype and zero points (out, groups) int8 or None.

    The scale spreads each group's range over the codes: its largest magnitude over 2^(bits-1) - 1/2 if symmetric,
    else (max - min) over 2^bits - 1, with zero always inside the range.
    """
    grouped = weight.detach().float().unflatten(1, (-1, group_size(scheme, weight.shape[1])))
    low, high = -(1 << (scheme.bits - 1)), (1 << (scheme.bits - 1)) - 1
    tiny = torch.finfo(weight.dtype).tiny
    if scheme.symmetric:
        scales = (grouped.abs().amax(2) / (high + 0.5)).clamp_min(tiny).to(weight.dtype)
        codes = (grouped / scales.float().unsqueeze(2)).round().clamp(low, high)
        return codes.flatten(1).to(torch.int8), scales, None
    least, most = grouped.amin(2).clamp_max(0), grouped.amax(2).clamp_min(0)
    scales = ((most - least) / (high - low)).clamp_min(tiny).to(weight.dtype)
    zeros = (low - least / scales.float()).round().clamp(low, high)
    codes = (grouped / scales.float().unsqueeze(2) + zeros.unsqueeze(2)).round().clamp(low, high)
    return codes.flatten(1).to(torch.int8), scales, zeros.to(torch.int8)


def from_codes(
    codes: Tensor, scales: Tensor, zero_points: Tensor | None, bias: Tensor | None, scheme: Scheme
) -> QuantizedLinear:
    """A layer of chosen codes: what a compression method hands over."""
    out_features, in_features = codes.shape
    layer = QuantizedLinear(in_features, out_features, bias is not None, scheme)
    layer.weight_packed = pack(codes, scheme.bits)
    layer.weight_scale = scales
    if zero_points is not None:
        layer.weight_zero_point = pack(zero_points.t(), scheme.bits).t().contiguous()
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def quantize_linear(linear: nn.Linear, scheme: Scheme) -> QuantizedLinear:
    """Round a linear layer's weights to the nearest code."""
    codes, scales, zeros = round_to_nearest(linear.weight, scheme)
    return from_codes(codes, scales, zeros, linear.bias, scheme)


def quantize_module(module: nn.Module, scheme: Scheme, skip: tuple[str, ...] = ("output",)) -> list[str]:
    """Replace the linear layers of a model by quantized ones, in place.

    Args:
        skip: names of layers to leave alone (the head, by default: it is small or tied, and sensitive).

    Returns:
        The names of the replaced layers.
    """
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name not in skip]
    for name in names:
        module.set_submodule(name, quantize_linear(module.get_submodule(name), scheme))  # type: ignore[arg-type]
    return names


def schemes_of(module: nn.Module) -> dict[str, Scheme]:
    """The scheme of every quantized layer, by name."""
    return {name: part.scheme for name, part in module.named_modules() if isinstance(part, QuantizedLinear)}
