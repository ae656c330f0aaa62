"""Quantized layers in other formats than packed integers: int8 with int8 inputs, float8, 4-bit normal floats.

They are stored as the readers of these formats expect: the bytes under the weight's own name, in compressed-tensors'
`int-quantized` and `float-quantized` and in bitsandbytes' layout, all of which transformers reads (vLLM too).
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from foundling.models.quantized import QuantizedLinear, Scheme, group_size

FP8 = torch.float8_e4m3fn
# The 16 values of NormalFloat4 (Dettmers et al. 2023, QLoRA, arXiv:2305.14314, appendix E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
NF4_STATE = "weight.quant_state.bitsandbytes__nf4"


class ByteLinear(QuantizedLinear):
    """One byte for each weight, with a scale for each output: int8 whose inputs are int8 too, or float8."""

    weight_bytes: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool, scheme: Scheme) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        # As int8 whatever they mean: `module.to(dtype)` would convert float8.
        self.register_buffer("weight_bytes", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.zeros(out_features, 1))
        self.weight_zero_point = None
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    def codes(self) -> Tensor:
        """The signed integer codes, (out_features, in_features) int8."""
        assert self.scheme.numbers == "int"
        return self.weight_bytes

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Number * scale, (out_features, in_features)."""
        return self._numbers().to(dtype) * self.weight_scale.to(dtype)

    def _numbers(self) -> Tensor:
        return self.weight_bytes.view(FP8) if self.scheme.numbers == "fp8" else self.weight_bytes

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}weight_bytes"]
        destination[f"{prefix}weight"] = self._numbers()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}weight" in state_dict:
            state_dict[f"{prefix}weight_bytes"] = state_dict.pop(f"{prefix}weight").view(torch.int8)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class NF4Linear(QuantizedLinear):
    """Half a byte for each weight: which of the 16 values of NF4, times its group's largest magnitude.

    Two weights share a byte, the first in its high half; groups run over the rows of the whole matrix.
    """

    weight_bytes: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool, scheme: Scheme) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        groups = out_features * in_features // group_size(scheme, in_features)
        self.register_buffer("weight_bytes", torch.zeros(out_features * in_features // 2, 1, dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.zeros(groups))
        self.weight_zero_point = None
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Value * largest magnitude, (out_features, in_features)."""
        indices = torch.stack((self.weight_bytes >> 4, self.weight_bytes & 15), dim=-1).int()
        values = torch.tensor(NF4, device=indices.device)[indices].view(self.weight_scale.numel(), -1)
        return (values * self.weight_scale.float().unsqueeze(1)).view(self.out_features, -1).to(dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination.pop(f"{prefix}weight_bytes")
        destination[f"{prefix}weight.absmax"] = destination.pop(f"{prefix}weight_scale")
        destination[f"{prefix}weight.quant_map"] = torch.tensor(NF4)
        described = {"quant_type": "nf4", "blocksize": self.scheme.group_size, "dtype": "float32"}
        text = json.dumps(described | {"shape": [self.out_features, self.in_features]})
        destination[prefix + NF4_STATE] = torch.tensor(list(text.encode()), dtype=torch.uint8)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for ours, theirs in (("weight_bytes", "weight"), ("weight_scale", "weight.absmax")):
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        for constant in ("weight.quant_map", NF4_STATE):
            state_dict.pop(prefix + constant, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def layer_class(scheme: Scheme) -> type[QuantizedLinear]:
    """The kind of layer that stores weights of a scheme."""
    if scheme.numbers == "nf4":
        return NF4Linear
    return ByteLinear if scheme.numbers == "fp8" or scheme.int8_inputs else QuantizedLinear


def byte_linear(numbers: Tensor, scales: Tensor, bias: Tensor | None, scheme: Scheme) -> ByteLinear:
    """A layer of int8 codes or float8 numbers (out, in) with scales (out, 1)."""
    layer = ByteLinear(numbers.shape[1], numbers.shape[0], bias is not None, scheme)
    layer.weight_bytes, layer.weight_scale = numbers.contiguous().view(torch.int8), scales
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
