"""Choosing integer codes and scales for a weight matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.models.quantized import Scheme, dequantize, group_size
from foundling.models.rounding import round_to_nearest

# Ranges tried, as a share of each group's largest weight: a few weights are cut off, all others are finer.
SHRINKS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7)


def search_scales(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes (out, in) int8, scales and zero points (out, groups) with the least squared error among `SHRINKS`.

    Each group chooses for itself. Rounding to nearest is the first candidate, so the error is never larger than its.
    """
    size = group_size(scheme, weight.shape[1])
    best: tuple[Tensor, Tensor, Tensor | None] | None = None
    least = torch.full((weight.shape[0], weight.shape[1] // size), torch.inf)
    for shrink in SHRINKS:
        codes, scales, zeros = round_to_nearest(_clipped(weight, scheme, size, shrink), scheme)
        error = (dequantize(codes, scales.float(), zeros) - weight.float()).unflatten(1, (-1, size)).square().sum(2)
        if best is None:
            best, least = (codes, scales, zeros), error
            continue
        better = error < least
        least = torch.where(better, error, least)
        kept = torch.where(better.repeat_interleave(size, 1), codes, best[0])
        zeros = None if zeros is None or best[2] is None else torch.where(better, zeros, best[2])
        best = kept, torch.where(better, scales, best[1]), zeros
    assert best is not None
    return best


def _clipped(weight: Tensor, scheme: Scheme, size: int, shrink: float) -> Tensor:
    grouped = weight.detach().unflatten(1, (-1, size))
    low, high = grouped.amin(2, keepdim=True).clamp_max(0), grouped.amax(2, keepdim=True).clamp_min(0)
    if scheme.symmetric:  # the scale depends on the larger side only
        high = torch.maximum(-low, high)
        low = -high
    return grouped.clamp(low * shrink, high * shrink).flatten(1)
