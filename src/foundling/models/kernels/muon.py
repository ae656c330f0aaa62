"""Muon's step as native passes on a CPU (`muon.c`): over memory for any matrices, and its iteration in tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.models.kernels import fused

PIECE = 4096  # of muon.c
BLOCK = 32  # sides of X in muon.c are multiples of it


def suits(*tensors: Tensor) -> bool:
    """Whether the passes can take these: weights, gradients and momenta, all float32."""
    return tensors[0].dtype == torch.float32 and tensors[0].ndim >= 2 and fused.suits(*tensors)


def blend(gradients: list[Tensor], momenta: list[Tensor], rate: float) -> tuple[Tensor, Tensor]:
    """Move the momenta by `rate` towards the gradients, and Nesterov's updates from there by `rate` again.

    Returns:
        The updates (matrices, rows, cols), bfloat16, and the norm of each before it was rounded (matrices,).
    """
    sides, places = gradients[0].shape[-2:], _addresses(gradients)
    count, size = len(places), sides.numel()
    updates = torch.empty((count, *sides), dtype=torch.bfloat16, device="cpu")
    squares = torch.empty((count, -(-size // PIECE)), dtype=torch.float32, device="cpu")
    tensors = (_addresses(momenta), places, updates, squares)
    fused.call("muon_momentum", tensors, count, size, rate, torch.get_num_threads())
    return updates, squares.sum(1).sqrt()


def suits_tiles(matrices: Tensor) -> bool:
    """Whether the iteration can run in tiles on these bfloat16 matrices (count, rows, cols)."""
    return matrices.dtype == torch.bfloat16 and max(matrices.shape[1:]) <= fused.LONGEST and fused.tiles()


def orthogonalize_(matrices: Tensor, scales: Tensor, coefficients: tuple[float, float, float], steps: int) -> None:
    """Newton–Schulz's iteration from matrices · scales, in their place: see `suits_tiles`.

    Args:
        matrices: (count, rows, cols), bfloat16.
        scales: (count,).
        coefficients: of X, X Xᵀ X and X Xᵀ X Xᵀ X.
        steps: how often.
    """
    count, rows, cols = matrices.shape
    short, long = sorted(-(-side // BLOCK) for side in (rows, cols))
    threads, size = torch.get_num_threads(), short * (long + 2 * short) * BLOCK  # vectors of 16 floats
    work = torch.empty((threads if count >= threads else 1, size, fused.LANES), dtype=torch.float32, device="cpu")
    factors = torch.tensor(coefficients, dtype=torch.float32, device="cpu")
    fused.call("muon_orthogonal", (matrices, scales, factors, work), count, rows, cols, size, steps, threads)


def apply(weights: list[Tensor], updates: Tensor, keep: float, rate: float) -> None:
    """weights = weights · keep − updates · rate."""
    count, size = updates.shape[0], updates[0].numel()
    fused.call("muon_apply", (_addresses(weights), updates), count, size, keep, rate, torch.get_num_threads())


def _addresses(tensors: list[Tensor]) -> Tensor:
    """Where each matrix of them begins."""
    matrices = [matrix for x in tensors for matrix in x.detach().view(-1, *x.shape[-2:]).unbind()]
    return torch.tensor([matrix.data_ptr() for matrix in matrices], dtype=torch.int64, device="cpu")
