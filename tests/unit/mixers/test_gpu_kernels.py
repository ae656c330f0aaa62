"""GPU kernels of other packages, called with their own conventions: here loops in float64 stand in for them.

Each loop below has the signature and the conventions that its package documents, so that a wrong sign, scale, layout or
document border shows without a GPU and without the package. The kernels themselves: `tests/gpu/test_fused_kernels.py`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.mixers.mixer_cases import cached, inputs, make
from tests.unit.mixers.test_fused_kernels import close, randn, results
from torch import Tensor

from foundling.models.context import Context
from foundling.models.layers import gpu_kernels, mamba_kernel, recurrent_native
from foundling.models.layers.mamba2 import ssd
from foundling.models.layers.mamba_scan import chunked_scan
from foundling.models.layers.rwkv4_wkv import EMPTY, chunked_wkv
from foundling.models.layers.rwkv7_delta import delta_rule

BORDERS = [None, False, True]  # one document; several, the first of which goes on from before; several, all new


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *, delta_softplus: bool, return_last_state: bool
) -> tuple[Tensor, Tensor]:
    """mamba_ssm: u, delta (batch, dim, time), A (dim, state), B, C (batch, state, time); last (batch, dim, state)."""
    assert not delta_softplus and return_last_state
    assert u.stride(-1) == delta.stride(-1) == B.stride(-1) == C.stride(-1) == 1
    h, out = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[:, None, :, t] * u[:, :, t, None]
        out.append((h * C[:, None, :, t]).sum(-1))
    return torch.stack(out, 2), h


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    *,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
    dt_softplus: bool,
    return_final_states: bool,
) -> tuple[Tensor, Tensor]:
    """mamba_ssm: x (batch, time, heads, p), B, C (batch, time, groups, n), states (batch, heads, p, n).

    A state serves only the tokens of its document, and the initial state those of document 0.
    """
    assert not dt_softplus and return_final_states and chunk_size >= 16 and math.log2(chunk_size).is_integer()
    h = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]) if initial_states is None else initial_states
    B, C = (part.repeat_interleave(x.shape[2] // part.shape[2], 2) for part in (B, C))
    number, out = torch.zeros(x.shape[0], dtype=torch.int32), []
    for t in range(x.shape[1]):
        if seq_idx is not None:
            assert seq_idx.dtype == torch.int32
            h = torch.where((seq_idx[:, t] == number)[:, None, None, None], h, 0.0)
            number = seq_idx[:, t]
        step = dt[:, t, :, None, None]
        h = torch.exp(step * A[:, None, None]) * h + step * x[:, t, :, :, None] * B[:, t, :, None, :]
        out.append((h * C[:, t, :, None, :]).sum(-1))
    return torch.stack(out, 1), h


def chunk_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """fla: all (batch, time, heads, size), w the log decay, states (sequences, heads, key, value).

    With `cu_seqlens` the batch is 1, and sequence i holds the tokens from cu_seqlens[i] to cu_seqlens[i + 1].
    """
    assert output_final_state
    spans = [(row, 0, r.shape[1]) for row in range(r.shape[0])]
    if cu_seqlens is not None:
        assert r.shape[0] == 1
        ends = cu_seqlens.tolist()
        spans = [(0, first, end) for first, end in itertools.pairwise(ends)]
    out, states = [], []
    for number, (row, first, end) in enumerate(spans):
        h = r.new_zeros(*r.shape[2:], v.shape[-1]) if initial_state is None else initial_state[number]
        for t in range(first, end):
            rt, wt, kt, vt, at, bt = (part[row, t] for part in (r, w, k, v, a, b))
            read = (at[..., None] * h).sum(-2, keepdim=True)
            h = wt.exp()[..., None] * h + bt[..., None] * read + kt[..., None] * vt[..., None, :]
            out.append((scale * rt[..., None] * h).sum(-2))
        states.append(h)
    return torch.stack(out).view_as(v), torch.stack(states)


def fused_recurrent_rwkv4(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """fla: the decay is exp(-exp(w)); state (batch, 3, 1, dim) holds sums of values and weights, and their log unit."""
    w, out = -w.exp(), []
    total, weight, unit = state[:, :, 0].unbind(1)
    for t in range(k.shape[1]):
        top = torch.maximum(u + k[:, t], unit)
        past, now = (unit - top).exp(), (u + k[:, t] - top).exp()
        out.append((past * total + now * v[:, t]) / (past * weight + now))
        top = torch.maximum(w + unit, k[:, t])
        past, now = (w + unit - top).exp(), (k[:, t] - top).exp()
        total, weight, unit = past * total + now * v[:, t], past * weight + now, top
    return torch.stack(out, 1), torch.stack([total, weight, unit], 1)[:, :, None]


KERNELS = {kernel.__name__: kernel for kernel in
           (selective_scan_fn, mamba_chunk_scan_combined, chunk_rwkv7, fused_recurrent_rwkv4)}  # fmt: skip


def borders(rows: int, time: int, first: bool | None) -> Tensor | None:
    """Where documents start: in each row at other places, and in the last row nowhere but at its start."""
    if first is None:
        return None
    resets = randn(rows, time, seed=3) > 1.0
    resets[-1] = False
    resets[:, 0] = first
    return resets


def same(fused: Callable[..., Any], plain: Callable[..., Any], parts: list[Tensor], tolerance: float) -> None:
    close(results(fused, parts, torch.float64), results(plain, parts, torch.float64), tolerance)


@pytest.mark.parametrize("first", BORDERS)
@pytest.mark.parametrize("goes_on", [False, True])
def test_selective_scan(first: bool | None, goes_on: bool) -> None:
    """Guards against the package's layout, and against tokens that set or drop a state leaving a trace."""
    rows, time, dim, n = 3, 19, 6, 5
    x, b, c, h = randn(rows, time, dim), randn(rows, time, n), randn(rows, time, n, seed=1), randn(rows, dim, n)
    dt, a, resets = randn(rows, time, dim, seed=2).sigmoid(), -10 * randn(dim, n).sigmoid(), borders(rows, time, first)
    a[0], a[1, 0] = -256.0, -1e-6

    def fused(*p: Tensor) -> tuple[Tensor, ...]:
        y, last = gpu_kernels.scan(selective_scan_fn, *p[:5], resets, p[5] if goes_on else None)
        assert not last.requires_grad, "the package's kernel has no gradient for it"
        return y, last

    def plain(*p: Tensor) -> tuple[Tensor, ...]:
        y, last = chunked_scan(*p[:5], resets=resets, initial=p[5] if goes_on else None)
        return y, last.detach()

    same(fused, plain, [x, dt, a, b, c, *([h] if goes_on else [])], 1e-11)


@pytest.mark.parametrize("first", BORDERS)
@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("chunk", [4, 20])
def test_ssd(first: bool | None, goes_on: bool, chunk: int) -> None:
    """Guards against states the other way round, and against document numbers that keep or drop the initial state."""
    x, dt, a, resets = randn(3, 33, 4, 3), randn(3, 33, 4).sigmoid(), -randn(4).exp(), borders(3, 33, first)
    b, c, h = randn(3, 33, 2, 5), randn(3, 33, 2, 5, seed=1), randn(3, 4, 5, 3)
    same(
        lambda *p: gpu_kernels.ssd(mamba_chunk_scan_combined, *p[:5], chunk, resets, p[5] if goes_on else None),
        lambda *p: ssd(*p[:5], chunk, resets=resets, initial=p[5] if goes_on else None),
        [x, dt, a, b, c, *([h] if goes_on else [])],
        1e-11,
    )


@pytest.mark.parametrize("first", BORDERS)
@pytest.mark.parametrize("goes_on", [False, True])
def test_delta_rule(first: bool | None, goes_on: bool) -> None:
    """Guards against a scaled receptance, alpha for beta, a transposed state, and documents that take another's."""
    r, k, v = (randn(3, 33, 2, 4, seed=seed) for seed in (1, 2, 3))
    removal = torch.nn.functional.normalize(randn(3, 33, 2, 4, seed=4), dim=-1)
    log_w, rate, h = -0.6 * randn(3, 33, 2, 4).sigmoid(), randn(3, 33, 2, 4, seed=5).sigmoid(), randn(3, 2, 4, 4)
    resets = borders(3, 33, first)
    same(
        lambda *p: gpu_kernels.delta_rule(chunk_rwkv7, *p[:6], resets, p[6] if goes_on else None),
        lambda *p: delta_rule(*p[:6], 16, resets=resets, initial=p[6] if goes_on else None),
        [r, log_w, k, v, -removal, removal * rate, *([h] if goes_on else [])],
        1e-10,
    )


def test_wkv() -> None:
    """Guards against a decay taken twice, and against the log of nothing becoming a NaN."""
    log, mean = randn(3, 20, seed=5), randn(3, 20, seed=6)
    log[0], mean[0] = EMPTY, 0.0
    k, v, w, u = 4 * randn(3, 37, 20), randn(3, 37, 20, seed=1), -randn(20).exp(), randn(20, seed=1)
    k[1, -3:] = EMPTY  # padding

    def flat(y: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return y, *state

    same(
        lambda *p: flat(*gpu_kernels.wkv(fused_recurrent_rwkv4, *p, (log, mean))),
        lambda *p: flat(*chunked_wkv(*p, None, (log, mean))),
        [k, v, w, u],
        1e-11,
    )


def test_wkv_takes_the_plain_form_where_the_kernel_cannot_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed documents need a reset, and the kernel leaves the gradient of the initial log unwritten."""
    monkeypatch.setattr(gpu_kernels, "_find", lambda x, module, name: KERNELS[name])
    k, state = torch.zeros(1, 4, 8), (torch.zeros(1, 8), torch.zeros(1, 8))
    learned = (torch.zeros(1, 8, requires_grad=True), torch.zeros(1, 8))
    assert gpu_kernels.wkv_kernel(k, None, state) is fused_recurrent_rwkv4
    assert gpu_kernels.wkv_kernel(k, torch.ones(1, 4, dtype=torch.bool), state) is None
    assert gpu_kernels.wkv_kernel(k, None, learned) is None


@pytest.mark.parametrize("name", ["mamba", "mamba_jamba", "mamba2", "rwkv4", "rwkv7"])
@pytest.mark.parametrize("kind", ["whole", "packed", "cached"])
def test_mixers_call_them(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a mixer that never gets there, or that hands over something else than its plain form takes."""
    called: list[str] = []

    def find(x: Tensor, module: str, name: str) -> Callable[..., Any]:
        called.append(name)
        return KERNELS[name]

    def run() -> list[Tensor]:
        mixer = make(name)
        x = inputs(2, 12).requires_grad_()
        if kind == "cached":
            state = mixer.new_state(3, 1, 1, torch.float32, "cpu")
            with torch.no_grad():  # a prompt of 4 and one of 12 tokens, then the rest of the first
                first = mixer(x, cached([0, 0], [4, 12], [1, 2], 12), state)
                second = mixer(x[:1, 4:], cached([4], [8], [1], 8), state)
            return [first[0, :4], first[1], second, *(part[1:] for part in state)]
        segments = torch.tensor([[0] * 5 + [1] * 1 + [2] * 6, [3] * 12])
        y = mixer(x, Context.packed(segments) if kind == "packed" else Context.full(2, 12))
        (y * randn(*y.shape).float()).sum().backward()
        return [y, x.grad, *(part.grad for part in mixer.parameters() if part.grad is not None)]

    monkeypatch.setattr(mamba_kernel, "available", lambda: False)
    monkeypatch.setattr(recurrent_native, "library", lambda source: None)
    plain = run()
    assert called == []
    monkeypatch.setattr(gpu_kernels, "_find", find)
    monkeypatch.setattr(gpu_kernels, "HEADS", range(1, 257))
    found = run()
    assert bool(called) != (name == "rwkv4" and kind == "packed")
    close(found, plain, 1e-5)


def test_which_kernel_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any) -> None:
    """Off a GPU, for one token, switched off, not installed, installed but broken: the plain form runs."""
    (tmp_path / "good_package.py").write_text("def kernel(): ...\n")
    (tmp_path / "broken_package.py").write_text("raise ImportError('undefined symbol')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRITON_F32_DEFAULT", "ieee")  # and put back afterwards
    monkeypatch.delenv("FOUNDLING_NATIVE", raising=False)

    def find(module: str, device: str = "cuda", time: int = 3) -> Any:
        x: Any = SimpleNamespace(device=SimpleNamespace(type=device), shape=(2, time, 4))
        return gpu_kernels._find(x, module, "kernel")

    assert find("good_package").__name__ == "kernel"
    assert find("good_package", device="cpu") is None
    assert find("good_package", time=1) is None
    with caplog.at_level(logging.WARNING):
        assert find("no_such_package") is None
    assert not caplog.records
    assert find("broken_package") is None
    assert "undefined symbol" in caplog.text
    monkeypatch.setenv("FOUNDLING_NATIVE", "0")
    assert find("good_package") is None


def test_heads_that_the_kernel_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a crash in the kernel instead of the plain form."""
    monkeypatch.setattr(gpu_kernels, "_find", lambda x, module, name: KERNELS[name])
    heads = [gpu_kernels.delta_kernel(torch.zeros(1, 4, 2, size)) for size in (8, 16, 256, 512)]
    assert heads == [None, chunk_rwkv7, chunk_rwkv7, None]
