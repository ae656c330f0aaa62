"""Changing a weight matrix column by column so that the layer's output changes least: GPTQ and SparseGPT.

With G = Σ x xᵀ over a layer's calibration inputs, the error of weights W' is Σ ||W'x - Wx||² = tr((W'-W) G (W'-W)ᵀ).
Once a column is fixed, the columns after it make up for its error as well as they can; the upper Cholesky factor of
G⁻¹ says how (Frantar et al. 2022, GPTQ, arXiv:2210.17323; Frantar & Alistarh 2023, SparseGPT, arXiv:2301.00774).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foundling.compression.rounding import Codes, search_scales
from foundling.models.quantized import Scheme, code_range

DAMPING = 0.01  # of the mean diagonal, added to the diagonal: both papers
BLOCK = 128  # columns after which the rest of the matrix is brought up to date
Fix = Callable[[int, Tensor], Tensor]  # (column, its current values (out,)) -> the values to keep


def output_error(difference: Tensor, gram: Tensor) -> float:
    """tr(D G Dᵀ), the summed squared change of the outputs; difference (out, in), gram (in, in)."""
    d = difference.float()
    return float(((d @ gram.float()) * d).sum())


def gptq(weight: Tensor, gram: Tensor, scheme: Scheme, *, act_order: bool = True, scales: Codes | None = None) -> Codes:
    """Codes, scales and zero points of a matrix (out, in).

    Args:
        gram: (in, in) Σ x xᵀ of the layer's inputs.
        act_order: fix the columns of the largest inputs first. Scales are chosen before, so groups stay in place.
        scales: scales and zero points to use (its codes are not); None: searched for, inputs weighted by their size.
    """
    _, chosen, zeros = scales or search_scales(weight, scheme, gram.diagonal())
    step = chosen.float().repeat_interleave(weight.shape[1] // chosen.shape[1], 1)  # (out, in)
    zero = torch.zeros_like(step)
    if zeros is not None:
        zero = zeros.float().repeat_interleave(weight.shape[1] // zeros.shape[1], 1)
    codes = torch.zeros(weight.shape, dtype=torch.int8, device=weight.device)
    pruned = weight == 0  # what pruning has removed stays away
    low, high = code_range(scheme.bits)

    def fix(column: int, values: Tensor) -> Tensor:
        at, by = zero[:, column], step[:, column]
        code = (values / by + at).round().clamp(low, high)
        code = torch.where(pruned[:, column], at, code)
        codes[:, column] = code.to(torch.int8)
        return (code - at) * by

    order = gram.diagonal().argsort(descending=True) if act_order else None
    sweep(weight, gram, fix, order)
    return codes, chosen, zeros


def sparsegpt(weight: Tensor, gram: Tensor, sparsity: float, two_of_four: bool) -> Tensor:
    """The matrix (out, in) with a share of its weights removed, and the others changed to make up for it.

    Weights go by w² / (the diagonal of the factor)², compared within `BLOCK` columns of all rows; or, in each row, the
    two smallest of every four neighbours, when their turn has come.
    """
    factor = _factor(weight, gram).diagonal()
    mask = torch.zeros_like(weight, dtype=torch.bool)

    def choose(start: int, values: Tensor) -> None:
        importance = (values / factor[start : start + values.shape[1]]).square()
        if two_of_four:
            kept = importance.unflatten(1, (-1, 4)).topk(2, dim=2).indices
            removed = torch.ones_like(importance, dtype=torch.bool).unflatten(1, (-1, 4)).scatter(2, kept, False)
            mask[:, start : start + values.shape[1]] = removed.flatten(1)
            return
        count = int(sparsity * importance.numel())
        if count:
            mask[:, start : start + values.shape[1]] = importance <= importance.flatten().kthvalue(count).values

    def fix(column: int, values: Tensor) -> Tensor:
        return values.masked_fill(mask[:, column], 0.0)

    return sweep(weight, gram, fix, None, choose, every=4 if two_of_four else BLOCK)


def sweep(
    weight: Tensor,
    gram: Tensor,
    fix: Fix,
    order: Tensor | None,
    before: Callable[[int, Tensor], None] | None = None,
    every: int = BLOCK,
) -> Tensor:
    """Fix every column in `order` (None: as they stand), each time correcting those that are still free.

    Args:
        before: called with the number of the first and the current values (out, every) of the next `every` columns.

    Returns:
        The fixed matrix (out, in), float32.
    """
    size = weight.shape[1]
    order = torch.arange(size, device=weight.device) if order is None else order
    values = weight.detach().float()[:, order].clone()
    factor = _factor(weight, gram, order)
    dead = gram.diagonal()[order] == 0
    values[:, dead] = 0.0  # inputs that are never there: their weights do nothing
    columns = order.tolist()
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        block, local = values[:, start:stop], factor[start:stop, start:stop]
        errors = torch.zeros_like(block)
        for j in range(stop - start):
            if before is not None and j % every == 0:
                before(start + j, block[:, j : j + every])
            kept = fix(columns[start + j], block[:, j])
            errors[:, j] = (block[:, j] - kept) / local[j, j]
            block[:, j:] -= errors[:, j : j + 1] * local[j, j:]
            block[:, j] = kept
        values[:, stop:] -= errors @ factor[start:stop, stop:]
    return values[:, order.argsort()]


def _factor(weight: Tensor, gram: Tensor, order: Tensor | None = None) -> Tensor:
    """Upper Cholesky factor of the damped inverse of G, columns in `order`; in float64, returned as float32.

    Each matrix takes the place of the one before it: they are the largest part of what rounding a layer needs.
    """
    g = (gram if order is None else gram[order][:, order]).to(torch.float64, copy=True)
    diagonal = g.diagonal()
    mean = diagonal.mean()
    diagonal.add_(DAMPING * mean + (diagonal == 0).double() * mean.clamp_min(1e-9))
    g = torch.linalg.cholesky(g)
    g = torch.cholesky_inverse(g)
    return torch.linalg.cholesky(g, upper=True).float()
