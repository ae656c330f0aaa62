"""Rounding a weight matrix to the nearest numbers of a scheme. Better choices of codes are `compression`'s work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundling.models.quantized import QuantizedLinear, Scheme, code_range, from_codes, group_size
from foundling.models.quantized_bytes import FP8, NF4, NF4Linear, byte_linear


def quantize_linear(linear: nn.Linear, scheme: Scheme) -> QuantizedLinear:
    """Round a linear layer's weights to the nearest number of a scheme."""
    if scheme.numbers == "nf4":
        return to_nf4(linear.weight, linear.bias, scheme)
    if scheme.numbers == "fp8":
        return byte_linear(*to_fp8(linear.weight), linear.bias, scheme)
    codes, scales, zeros = round_to_nearest(linear.weight, scheme)
    if scheme.int8_inputs:
        return byte_linear(codes, scales, linear.bias, scheme)
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


def round_to_nearest(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes (out, in) int8, scales (out, groups) bfloat16 and zero points (out, groups) int8 or None."""
    scales, zeros = spread(weight, scheme)
    return to_codes(weight, scales, zeros, scheme.bits), scales, zeros


def spread(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor | None]:
    """Scales (out, groups) bfloat16 that spread each group's range over the codes, and zero points int8 or None.

    The scale is the group's largest magnitude over 2^(bits-1) - 1/2 if symmetric, else (max - min) over 2^bits - 1,
    with zero always inside the range.
    """
    grouped = weight.detach().float().unflatten(1, (-1, group_size(scheme, weight.shape[1])))
    low, high = code_range(scheme.bits)
    if scheme.symmetric:
        return round_up(grouped.abs().amax(2) / (high + 0.5)), None
    least, most = grouped.amin(2).clamp_max(0), grouped.amax(2).clamp_min(0)
    scales = round_up((most - least) / (high - low))
    return scales, (low - least / scales.float()).round().clamp(low, high).to(torch.int8)


def to_codes(weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    """The nearest codes (out, in) int8 of weights (out, in) at scales and zero points (out, groups)."""
    codes = weight.detach().float().unflatten(1, (scales.shape[1], -1)) / scales.float().unsqueeze(2)
    if zeros is not None:
        codes = codes + zeros.unsqueeze(2)
    return codes.round().clamp(*code_range(bits)).flatten(1).to(torch.int8)


def round_up(scales: Tensor) -> Tensor:
    """The next bfloat16 not below each positive scale: two bytes on disk, and no weight falls out of the range."""
    bits = scales.float().clamp_min(torch.finfo(torch.float32).tiny).view(torch.int32)
    return ((bits + 0xFFFF) & -0x10000).view(torch.float32).to(torch.bfloat16)


def to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float8 numbers (out, in) and scales (out, 1) float32: each output's largest weight becomes float8's largest."""
    scales = (weight.detach().float().abs().amax(1, keepdim=True) / torch.finfo(FP8).max).clamp_min(1e-12)
    return (weight.detach().float() / scales).clamp(-448, 448).to(FP8), scales


def to_nf4(weight: Tensor, bias: Tensor | None, scheme: Scheme) -> NF4Linear:
    """Round a matrix (out, in) to the nearest of NF4's values in each group."""
    layer = NF4Linear(weight.shape[1], weight.shape[0], bias is not None, scheme)
    grouped = weight.detach().float().reshape(-1, group_size(scheme, weight.shape[1]))
    largest = grouped.abs().amax(1)
    levels = torch.tensor(NF4, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    indices = torch.bucketize(grouped / largest.clamp_min(1e-12).unsqueeze(1), between).to(torch.uint8).view(-1, 2)
    layer.weight_bytes, layer.weight_scale = (indices[:, :1] << 4) | indices[:, 1:], largest
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
