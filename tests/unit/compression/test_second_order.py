"""GPTQ, SparseGPT, Wanda and AWQ against independent float64 implementations of their papers' equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundling.compression.awq import GRID, best_scales
from foundling.compression.calibration import Moments
from foundling.compression.config import PruneConfig
from foundling.compression.pruning import pruned
from foundling.compression.rounding import search_scales
from foundling.compression.second_order import BLOCK, gptq, output_error, sparsegpt
from foundling.models.quantized import Scheme, dequantize
from foundling.models.rounding import round_to_nearest

Matrix = NDArray[np.float64]
SCHEMES = [Scheme(bits=4, group_size=32), Scheme(bits=4, group_size=32, symmetric=False), Scheme(bits=8)]


@pytest.fixture(scope="module")
def layer() -> tuple[Tensor, Tensor]:
    """A weight (24, 160) and inputs (600, 160): of very different sizes and nearly of rank 40, as in real models."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(40, 160, generator=generator) * torch.logspace(-1, 1, 160)
    x = torch.randn(600, 40, generator=generator) @ mixing / 6 + 0.05 * torch.randn(600, 160, generator=generator)
    return torch.randn(24, 160, generator=generator), x


def moments(x: Tensor) -> Moments:
    made = Moments(torch.zeros(x.shape[1], x.shape[1]), torch.zeros(x.shape[1]))
    made.add(x)
    return made


def obs_gptq(weight: Matrix, x: Matrix, scales: Matrix, zeros: Matrix, low: int, high: int, order: list[int]) -> Matrix:
    """Optimal brain quantization in a fixed order, from its definition: after each column the inverse Hessian of what
    is left is computed anew, and all free columns move along it. No Cholesky factor, no blocks."""
    w = weight.copy()
    h = x.T @ x
    h += np.eye(len(h)) * 0.01 * np.diag(h).mean()
    free = list(order)
    while free:
        inverse = np.linalg.inv(h[np.ix_(free, free)])
        column = free[0]
        code = np.clip(np.round(w[:, column] / scales[:, column] + zeros[:, column]), low, high)
        error = (w[:, column] - (code - zeros[:, column]) * scales[:, column]) / inverse[0, 0]
        w[:, free] -= np.outer(error, inverse[0])
        free = free[1:]
    return w


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gptq_is_the_papers(layer: tuple[Tensor, Tensor], scheme: Scheme, act_order: bool) -> None:
    """Layer error within 1% of the reference's, and far below rounding to nearest on the same scales."""
    weight, x = layer
    gram = (x.T @ x).float()
    chosen = search_scales(weight, scheme, gram.diagonal())
    codes, scales, zeros = gptq(weight, gram, scheme, act_order=act_order, scales=chosen)
    ours = output_error(dequantize(codes, scales.float(), zeros) - weight, gram)
    wide = scales.double().repeat_interleave(scheme.group_size, 1).numpy()
    shift = np.zeros_like(wide) if zeros is None else zeros.double().repeat_interleave(scheme.group_size, 1).numpy()
    order = gram.diagonal().argsort(descending=True).tolist() if act_order else list(range(160))
    high = (1 << (scheme.bits - 1)) - 1
    reference = obs_gptq(weight.double().numpy(), x.double().numpy(), wide, shift, -high - 1, high, order)
    theirs = float((((reference - weight.double().numpy()) @ x.double().numpy().T) ** 2).sum())
    assert ours == pytest.approx(theirs, rel=0.01)
    nearest = output_error(dequantize(chosen[0], chosen[1].float(), chosen[2]) - weight, gram)
    assert ours < 0.75 * nearest


def test_gptq_keeps_what_pruning_removed_and_survives_dead_inputs(layer: tuple[Tensor, Tensor]) -> None:
    weight, x = layer[0].clone(), layer[1].clone()
    x[:, 5] = 0
    weight[:, ::3] = 0
    codes, scales, zeros = gptq(weight, x.T @ x, Scheme(bits=4, group_size=32))
    result = dequantize(codes, scales.float(), zeros)
    assert result.isfinite().all() and (result[:, ::3] == 0).all()


@pytest.mark.parametrize("two_of_four", [False, True])
def test_sparsegpt_is_the_papers(layer: tuple[Tensor, Tensor], two_of_four: bool) -> None:
    """The same weights removed, and the rest moved, by the definition (inverses computed anew for every column)."""
    weight, x = layer
    gram = x.T @ x
    ours = sparsegpt(weight, gram, 0.5, two_of_four)
    reference = obs_sparse(weight.double().numpy(), x.double().numpy(), two_of_four)
    error = output_error(torch.from_numpy(reference).float() - weight, gram)
    assert output_error(ours - weight, gram) == pytest.approx(error, rel=0.01)
    assert float((ours == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    pattern = "2:4" if two_of_four else "free"
    smallest = pruned(weight, PruneConfig(method="magnitude", pattern=pattern), None, "layer")
    assert output_error(ours - weight, gram) < 0.8 * output_error(smallest - weight, gram)


def obs_sparse(weight: Matrix, x: Matrix, two_of_four: bool) -> Matrix:
    w, size = weight.copy(), weight.shape[1]
    h = x.T @ x
    h += np.eye(size) * 0.01 * np.diag(h).mean()
    spread = [np.linalg.inv(h[j:, j:])[0, 0] for j in range(size)]  # of column j when those before it are fixed
    mask = np.zeros(w.shape, dtype=bool)
    every = 4 if two_of_four else BLOCK
    for j in range(size):
        if j % every == 0:
            block = slice(j, min(j + every, size))
            importance = w[:, block] ** 2 / np.array(spread[block])
            if two_of_four:
                fours = importance.reshape(len(w), -1, 4)
                ranks = fours.argsort(2).argsort(2)
                mask[:, block] = (ranks < 2).reshape(len(w), -1)
            else:
                mask[:, block] = importance <= np.sort(importance.ravel())[importance.size // 2 - 1]
        inverse = np.linalg.inv(h[j:, j:])
        error = np.where(mask[:, j], w[:, j], 0.0) / inverse[0, 0]
        w[:, j:] -= np.outer(error, inverse[0])
        w[mask[:, j], j] = 0.0
    return w


def test_wanda_removes_the_smallest_products_of_each_row(layer: tuple[Tensor, Tensor]) -> None:
    weight, x = layer
    result = pruned(weight, PruneConfig(method="wanda", sparsity=0.25), moments(x), "layer")
    score = weight.double().abs() * x.double().norm(dim=0)
    for row in range(len(weight)):
        gone = set(score[row].argsort()[:40].tolist())
        assert set((result[row] == 0).nonzero().flatten().tolist()) == gone


def test_awq_is_the_papers(layer: tuple[Tensor, Tensor]) -> None:
    """The α with the least ||Q(W s)(X / s) - W X||, on the inputs themselves, in float64."""
    weight, x = layer
    scheme = Scheme(bits=4, group_size=32)
    ours = best_scales([weight], moments(x), scheme)
    errors = []
    for step in range(GRID):
        s = x.double().abs().mean(0).clamp_min(1e-4) ** (step / GRID)
        s = s / (s.max() * s.min()).sqrt()
        codes, scales, _ = round_to_nearest((weight.double() * s).float(), scheme)
        rounded = codes.double() * scales.double().repeat_interleave(32, 1) / s
        errors.append(float(((rounded - weight.double()) @ x.double().T).square().sum()))
    codes, scales, zeros = round_to_nearest(weight * ours, scheme)
    error = output_error(dequantize(codes, scales.float(), zeros) / ours - weight, x.T @ x)
    assert error == pytest.approx(min(errors), rel=0.01)
    assert min(errors) < 0.9 * errors[0]  # or the search would prove nothing
