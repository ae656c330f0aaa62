"""Removing single weights of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.compression.calibration import Moments
from foundling.compression.config import PruneConfig
from foundling.compression.second_order import sparsegpt
from foundling.core.errors import FoundlingError


def pruned(weight: Tensor, config: PruneConfig, moments: Moments | None, name: str) -> Tensor:
    """The matrix (out, in) with a share of its weights set to zero.

    Raises:
        FoundlingError: the pattern 2:4 on inputs that do not divide by four.
    """
    if config.pattern == "2:4" and weight.shape[1] % 4:
        raise FoundlingError(f"{name} has {weight.shape[1]} inputs", "the pattern 2:4 needs a multiple of four")
    if config.method == "sparsegpt" and moments is not None:
        return sparsegpt(weight, moments.gram, config.sparsity, config.pattern == "2:4")
    importance = weight.abs()
    if moments is not None and config.method == "wanda":
        importance = importance * moments.gram.diagonal().sqrt()  # Sun et al. 2023, arXiv:2306.11695: |w| ||x||
    return weight * kept(importance, config, by_row=config.method == "wanda")


def kept(importance: Tensor, config: PruneConfig, *, by_row: bool) -> Tensor:
    """Which weights (out, in) stay, as 0 and 1: the most important of each four, of each row, or of the matrix."""
    if config.pattern == "2:4":
        grouped = importance.unflatten(1, (-1, 4))
        best = grouped.topk(2, dim=2).indices
        return torch.zeros_like(grouped).scatter(2, best, 1.0).flatten(1)
    flat = importance if by_row else importance.flatten().unsqueeze(0)
    removed = flat.topk(int(config.sparsity * flat.shape[1]), dim=1, largest=False).indices
    return torch.ones_like(flat).scatter(1, removed, 0.0).view_as(importance)
