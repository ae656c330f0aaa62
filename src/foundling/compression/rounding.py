"""Choosing scales and zero points for the groups of a weight matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from foundling.models.quantized import Scheme, code_range, dequantize, group_size
from foundling.models.rounding import round_up, spread, to_codes

# Ranges tried, as a share of each group's largest weight: a few weights are cut off, all others are finer.
SHRINKS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7)
Codes = tuple[Tensor, Tensor, Tensor | None]  # codes (out, in) int8, scales and zero points (out, groups)


def search_scales(weight: Tensor, scheme: Scheme, importance: Tensor | None = None) -> Codes:
    """Codes, scales and zero points with the least squared error among a few dozen ranges, for each group by itself.

    Args:
        importance: (in,) weight of each input's error, such as its mean square; None: all the same.

    Rounding to nearest is the first candidate, so the error is never larger than its.
    """
    size = group_size(scheme, weight.shape[1])
    best_scales, best_zeros = spread(weight, scheme)
    least = torch.full(best_scales.shape, torch.inf, device=weight.device)
    for scales, zeros in _candidates(weight, scheme, size):
        error = dequantize(to_codes(weight, scales, zeros, scheme.bits), scales.float(), zeros) - weight.float()
        square = error.square() if importance is None else error.square() * importance
        total = square.unflatten(1, (-1, size)).sum(2)
        better = total < least
        least = torch.where(better, total, least)
        best_scales = torch.where(better, scales, best_scales)
        if zeros is not None and best_zeros is not None:
            best_zeros = torch.where(better, zeros, best_zeros)
    return to_codes(weight, best_scales, best_zeros, scheme.bits), best_scales, best_zeros


def _candidates(weight: Tensor, scheme: Scheme, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    grouped = weight.detach().float().unflatten(1, (-1, size))
    if not scheme.symmetric:
        low, high = grouped.amin(2, keepdim=True).clamp_max(0), grouped.amax(2, keepdim=True).clamp_min(0)
        for shrink in SHRINKS:
            yield spread(grouped.clamp(low * shrink, high * shrink).flatten(1), scheme)
        return
    yield spread(weight, scheme)
    extreme = grouped.gather(2, grouped.abs().argmax(2, keepdim=True)).squeeze(2)
    # The codes reach further below zero than above it: a negative scale gives the longer side to the largest weight.
    lowest = code_range(scheme.bits)[0]
    for shrink in SHRINKS:
        size_of_step = round_up(extreme.abs() * shrink / -lowest)
        yield torch.where(extreme > 0, -size_of_step, size_of_step), None
        yield round_up(extreme.abs() * shrink / (-lowest - 0.5)), None
