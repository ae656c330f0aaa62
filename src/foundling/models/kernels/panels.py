"""Weights as the kernels read them: see `matmul.h` for the layout of integer weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.kernels.structs import BF16, F32, INT4, INT8, Matrix, address
from foundling.models.quantized import QuantizedLinear

PANEL = 16
GROUPS = (64, 32, 16)  # inputs whose rounded activations share a scale: the largest that divides the weights' group


class Weight:
    """A weight matrix (n, k) for the kernels; keeps alive what `struct` points to.

    Dense weights are used where they lie. Codes are copied into panels once, at 1 byte or half a byte each.
    """

    def __init__(self, struct: Matrix, *keep: Tensor | None) -> None:
        self.struct, self.keep = struct, keep

    @property
    def inputs(self) -> tuple[int, int]:
        """The form that a product wants its inputs in: the kind of numbers, and how many share a scale."""
        return min(self.struct.kind, INT8), self.struct.group

    @property
    def bytes(self) -> int:
        """What a product reads."""
        return sum(part.numel() * part.element_size() for part in self.keep if part is not None)


def weight_of(layer: nn.Module) -> Weight | None:
    """The weight of a linear layer (or the matrix of an embedding); None if the kernels do not know its form."""
    if isinstance(layer, QuantizedLinear):
        return _quantized(layer)
    if type(layer) is not nn.Linear and type(layer) is not nn.Embedding:  # a subclass may compute something else
        return None
    return _dense(layer.weight, layer.bias if isinstance(layer, nn.Linear) else None)


def head_of(layer: nn.Module) -> list[Weight]:
    """The head's weight, in two parts where the vocabulary is no whole number of panels: the rest is a small copy,
    filled up with zeros. Empty if the kernels do not know its form."""
    weight = weight_of(layer)
    if weight is not None:
        return [weight]
    if type(layer) is not nn.Embedding and (type(layer) is not nn.Linear or layer.bias is not None):
        return []
    matrix = layer.weight.detach()
    whole = matrix.shape[0] // PANEL * PANEL
    rest = F.pad(matrix[whole:], (0, 0, 0, whole + PANEL - matrix.shape[0]))
    parts = [_dense(part, None) for part in (matrix[:whole], rest)]
    return [part for part in parts if part is not None] if whole and None not in parts else []


def _dense(matrix: Tensor, bias: Tensor | None) -> Weight | None:
    kinds = {torch.float32: F32, torch.bfloat16: BF16}
    if matrix.dtype not in kinds or not matrix.is_contiguous() or matrix.device.type != "cpu":
        return None
    if matrix.shape[0] % PANEL or matrix.shape[1] % PANEL:
        return None
    shift = None if bias is None else bias.detach().float().contiguous()
    n, k = matrix.shape
    struct = Matrix(kinds[matrix.dtype], 0, 0, 0, n, k, address(matrix.detach()), address(shift))
    return Weight(struct, matrix, shift)


def _quantized(layer: QuantizedLinear) -> Weight | None:
    n, k = layer.out_features, layer.in_features
    fits = (layer.scheme.group_size or k) % GROUPS[-1] == 0 and layer.weight_scale.device.type == "cpu"
    if layer.scheme.numbers != "int" or not fits or n % PANEL or not layer.scheme.symmetric:
        return None
    group = activation_group(layer)
    scales = layer.weight_scale.repeat_interleave(k // layer.weight_scale.shape[1] // group, dim=1)
    half = bool((scales.bfloat16().to(scales.dtype) == scales).all())
    panels = pack_panels(layer.codes(), scales.to(torch.bfloat16 if half else torch.float32), layer.scheme.bits)
    shift = None if layer.bias is None else layer.bias.detach().float().contiguous()
    kind = INT8 if layer.scheme.bits == 8 else INT4
    return Weight(Matrix(kind, group, int(half), 0, n, k, address(panels), address(shift)), panels, shift)


def activation_group(layer: QuantizedLinear) -> int:
    """How many inputs of a layer share a scale when they are rounded."""
    size = layer.scheme.group_size or layer.in_features
    return next(group for group in GROUPS if size % group == 0)


def pack_panels(codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Signed codes (n, k) int8 and scales (n, groups) as bytes: panel, group, [codes of 16 outputs, 16 scales]."""
    n, k = codes.shape
    groups = scales.shape[1]
    unsigned = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    per_step = 4 if bits == 8 else 8
    steps = unsigned.view(n // PANEL, PANEL, groups, k // groups // per_step, per_step).permute(0, 2, 3, 1, 4)
    if bits == 4:
        steps = steps[..., :4] | (steps[..., 4:] << 4)
    each = scales.view(n // PANEL, PANEL, groups).transpose(1, 2).contiguous().view(torch.uint8)
    return torch.cat((steps.flatten(2), each), dim=2).contiguous()
