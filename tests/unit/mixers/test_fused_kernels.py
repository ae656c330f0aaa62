"""The compiled kernels' outputs and gradients equal those of the torch forms, which equal a float64 loop's."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foundling.models.layers import mamba_kernel, recurrent_gru, recurrent_native
from foundling.models.layers.mamba2 import ssd
from foundling.models.layers.mamba_scan import chunked_scan
from foundling.models.layers.rwkv4_wkv import _WKV, EMPTY, SOURCE, chunked_wkv
from foundling.models.layers.rwkv7_delta import delta_rule

SIZES = [(2, 37, 20, 16), (1, 100, 40, 5), (3, 1, 16, 16), (1, 70, 17, 20)]
needs_compiler = pytest.mark.skipif(not mamba_kernel.available(), reason="no C compiler on this machine")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def results(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Outputs, then the gradients of their weighted sum."""
    leaves = [part.to(dtype).clone().requires_grad_() for part in inputs]
    outputs = function(*leaves)
    sum((out.double() * randn(*out.shape, seed=9)).sum() for out in outputs).backward()
    return [*outputs, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(wanted)
    for index in range(len(found)):
        x, y = found[index].detach(), wanted[index].detach()
        assert (x - y).abs().max() <= tolerance * max(1.0, float(y.abs().max())), index


def scan_inputs(rows: int, time: int, dim: int, n: int) -> tuple[list[Tensor], Tensor]:
    x, b, c, initial = randn(rows, time, dim), randn(rows, time, n), randn(rows, time, n, seed=1), randn(rows, dim, n)
    dt, a = randn(rows, time, dim, seed=2).sigmoid(), -10 * randn(dim, n).sigmoid()
    return [x, dt, a, b, c, initial], randn(rows, time, seed=3) > 1.5


def scan_loop(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, resets: Tensor
) -> tuple[Tensor, Tensor]:
    out = []
    for t in range(x.shape[1]):
        h = torch.where(resets[:, t, None, None], 0.0, h)
        h = torch.exp(dt[:, t, :, None] * a) * h + (dt * x)[:, t, :, None] * b[:, t, None]
        out.append((h * c[:, t, None]).sum(-1))
    return torch.stack(out, 1), h


@pytest.mark.parametrize("sizes", SIZES)
def test_chunked_scan_is_the_recurrence(sizes: tuple[int, ...]) -> None:
    """Guards against chunk borders, padding and resets, in values and in gradients."""
    inputs, resets = scan_inputs(*sizes)
    wanted = results(lambda *p: scan_loop(*p, resets), inputs, torch.float64)
    found = results(lambda *p: chunked_scan(*p[:5], resets=resets, initial=p[5]), inputs, torch.float64)
    close(found, wanted, 1e-12)


@needs_compiler
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threads", [1, 3])
def test_scan_kernel_is_the_recurrence(sizes: tuple[int, ...], threads: int) -> None:
    """Guards against partial vectors, chunks recomputed from the wrong state, and threads that share a sum."""
    inputs, resets = scan_inputs(*sizes)
    wanted = results(lambda *p: scan_loop(*p, resets), inputs, torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = results(lambda *p: mamba_kernel.scan(*p[:5], resets, p[5]), inputs, torch.float32)
    torch.set_num_threads(before)
    close(found, wanted, 2e-6)


@needs_compiler
def test_scan_kernel_forgets_everything_without_nan() -> None:
    """Guards against exp() underflow turning into NaN: step sizes so large that nothing survives a token."""
    x, dt, a = torch.randn(1, 40, 16), torch.full((1, 40, 16), 50.0), torch.full((16, 16), -16.0)
    b, c = torch.randn(1, 40, 16), torch.randn(1, 40, 16)
    y, last = mamba_kernel.scan(x, dt, a, b, c, None, None)
    torch.testing.assert_close(y, (dt * x) * (b * c).sum(-1, keepdim=True), rtol=1e-5, atol=1e-3)
    assert bool(last.isfinite().all())


def wkv_inputs(rows: int, time: int, dim: int) -> list[Tensor]:
    log = randn(rows, dim, seed=5)
    log[0] = EMPTY
    return [4 * randn(rows, time, dim), randn(rows, time, dim, seed=1), -randn(dim).exp(), randn(dim, seed=1), log,
            randn(rows, dim, seed=6) * (log > EMPTY)]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("sizes", [(2, 37, 20), (1, 100, 40), (3, 1, 16)])
def test_wkv_kernel_equals_the_torch_form(sizes: tuple[int, ...]) -> None:
    """Guards against a wrong derivative of the running mean and its weight."""
    assert recurrent_native.library(SOURCE) is not None
    inputs, resets = wkv_inputs(*sizes), randn(*sizes[:2], seed=3) > 1.5

    def torch_form(*p: Tensor) -> tuple[Tensor, ...]:
        y, (log, mean) = chunked_wkv(*p[:4], resets, p[4:])
        return y, log.clamp(min=-1e4), mean

    def kernel(*p: Tensor) -> tuple[Tensor, ...]:
        y, log, mean = _WKV.apply(*p[:4], resets, *p[4:])
        return y, log.clamp(min=-1e4), mean

    close(results(kernel, inputs, torch.float32), results(torch_form, inputs, torch.float64), 5e-6)


def test_ssd_and_delta_rule_gradients_do_not_depend_on_the_chunk() -> None:
    """Guards against terms that are lost at chunk borders, also with resets and an initial state."""
    resets = randn(2, 33, seed=3) > 1.2
    x, dt, a = randn(2, 33, 4, 3), randn(2, 33, 4).sigmoid(), -randn(4).exp()
    b, c, h = randn(2, 33, 2, 5), randn(2, 33, 2, 5, seed=1), randn(2, 4, 5, 3)
    by_chunk = [results(lambda *p, q=q: ssd(*p[:5], q, resets=resets, initial=p[5]), [x, dt, a, b, c, h], torch.float64)
                for q in (1, 8, 64)]  # fmt: skip
    close(by_chunk[1], by_chunk[0], 1e-11)
    close(by_chunk[2], by_chunk[0], 1e-11)
    r, k, v = (randn(2, 33, 2, 4, seed=seed) for seed in (1, 2, 3))
    removal = torch.nn.functional.normalize(randn(2, 33, 2, 4, seed=4), dim=-1)
    parts = [r, -0.6 * randn(2, 33, 2, 4).sigmoid(), k, v, -removal, removal * 0.7, randn(2, 2, 4, 4)]
    by_chunk = [results(lambda *p, q=q: delta_rule(*p[:6], q, resets=resets, initial=p[6]), parts, torch.float64)
                for q in (1, 8, 16)]  # fmt: skip
    close(by_chunk[1], by_chunk[0], 1e-10)
    close(by_chunk[2], by_chunk[0], 1e-10)


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_gru_kernel_equals_torch_step_by_step(rows: int) -> None:
    """Guards against a wrong gate derivative, gradients that cross a document's start, and rows left out of a block."""
    cell = torch.nn.GRU(5, 32, batch_first=True)
    assert recurrent_gru.suits(cell, torch.zeros(1, 1, 5)) == mamba_kernel.available()
    if not mamba_kernel.available():
        pytest.skip("no C compiler on this machine")
    x, resets = randn(rows, 13, 5).float(), randn(rows, 13, seed=3) > 1.0
    resets[:, 0] = True

    def kernel(x: Tensor) -> tuple[Tensor]:
        return (recurrent_gru.run(cell, x, resets),)

    def by_document(x: Tensor) -> tuple[Tensor]:
        out = []
        for row in range(rows):
            starts = [*resets[row].nonzero()[:, 0].tolist(), 13]
            parts = [x[row : row + 1, a:b] for a, b in itertools.pairwise(starts)]
            out.append(torch.cat([cell(part)[0] for part in parts], 1))
        return (torch.cat(out),)

    found, wanted = [], []
    for function, results_of in ((kernel, found), (by_document, wanted)):
        cell.zero_grad()
        leaf = x.clone().requires_grad_()
        (y,) = function(leaf)
        (y * randn(*y.shape, seed=9).float()).sum().backward()
        results_of += [y, leaf.grad, *(part.grad.clone() for part in cell.parameters())]
    close(found, wanted, 5e-6)
