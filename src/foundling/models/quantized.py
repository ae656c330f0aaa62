"""Linear layers with integer weights, in compressed-tensors' pack-quantized form that vLLM and transformers read.

A weight is code * scale, or (code - zero_point) * scale, with one scale per group of `group_size` inputs of an output
row. This file stores, reads and multiplies them; choosing good codes is `compression`'s work. The other forms of a
quantized layer, one byte or half a byte of another number format for each weight, are in `quantized_bytes.py`.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError
from foundling.models.packing import pack, unpack

# Above so many rows the integer kernels lose to one dequantization and a dense product (measured, AVX-512 with BF16).
KERNEL_ROWS = 4
KERNEL_GROUPS = (32, 64, 128, 256)


class Scheme(Config):
    """How the weights of a layer are quantized, and whether its inputs are, too."""

    numbers: Literal["int", "fp8", "nf4"] = option("int", "integers, float8 (e4m3) or QLoRA's 16 normal quantiles")
    bits: Literal[4, 8] = option(4, "bits per weight")
    group_size: int | None = option(32, "inputs that share a scale; null: all inputs of an output", gt=0)
    symmetric: bool = option(True, "no zero points")
    int8_inputs: bool = option(False, "each token's inputs are rounded to int8 as they come")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        plain = self.symmetric and not self.int8_inputs
        if self.numbers == "fp8" and not (self.bits == 8 and self.group_size is None and plain):
            raise ValueError("fp8 has 8 bits and one scale for each output (group_size null)")
        if self.numbers == "nf4" and not (self.bits == 4 and self.group_size and plain):
            raise ValueError("nf4 has 4 bits and a group_size")
        if self.int8_inputs and not (self.bits == 8 and self.group_size is None and self.symmetric):
            raise ValueError("int8_inputs goes with 8 bits, symmetric, one scale for each output (group_size null)")
        return self


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
        if self.scheme.int8_inputs:
            x = round_inputs(x)
        if x.numel() <= KERNEL_ROWS * self.in_features and self._kernel_fits(x):
            y = self._kernel_product(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
            return y if self.bias is None else y + self.bias.to(y.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dequantized(x.dtype), bias)

    @property
    def weight(self) -> Tensor:
        """The weights as numbers (out_features, in_features) float32; computed at each use."""
        return self.dequantized(torch.float32)

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
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.dim() < 2:
            return False
        if self.scheme.numbers != "int" or not self.scheme.symmetric or self.scheme.int8_inputs:
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


def round_inputs(x: Tensor) -> Tensor:
    """Each token's inputs (..., in) rounded to 256 steps of its largest magnitude, as numbers again."""
    scale = x.abs().amax(-1, keepdim=True) / 127.5  # compressed-tensors: half of the range of 8 bits
    scale = scale.where(scale != 0, torch.finfo(x.dtype).eps)
    return (x / scale).round().clamp(-128, 127) * scale


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


def code_range(bits: int) -> tuple[int, int]:
    """The least and the greatest signed code."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


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


def refuse_to_train_compressed(module: nn.Module) -> None:
    """Raise FoundlingError if a model has quantized layers: training would leave those as they are."""
    if schemes_of(module):
        fix = "Train the model it was made from, or an adapter beside it (adapter.method)"
        raise FoundlingError("the model to start from is compressed, and codes cannot be trained", fix=fix)


def schemes_of(module: nn.Module) -> dict[str, Scheme]:
    """The scheme of every quantized layer, by name."""
    return {name: part.scheme for name, part in module.named_modules() if isinstance(part, QuantizedLinear)}
