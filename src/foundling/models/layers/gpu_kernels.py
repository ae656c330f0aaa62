"""Fused GPU kernels of other packages for the recurrences of this folder, called in this folder's conventions.

All are optional: each `*_kernel` says which function runs for these tensors, and None means the plain torch form.

    Mamba    mamba_ssm   selective_scan_fn           resets and states as extra tokens (it takes neither)
    Mamba-2  mamba_ssm   mamba_chunk_scan_combined   resets by its seq_idx
    RWKV-7   fla         chunk_rwkv7                 resets by its cu_seqlens
    RWKV-4   fla         fused_recurrent_rwkv4       no resets: packed documents take the plain form

They get float32, as the plain forms do. Triton would round such products to TF32; here they stay exact unless
TRITON_F32_DEFAULT says otherwise. FOUNDLING_NATIVE=0 switches all of them off, as it does the CPU's kernels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)
Kernel = Callable[..., Any]
FORGET = 1e12  # a step size so long that exp(dt a) is 0 for every decay
STILL = 2.0**-20  # a step size so short that hardly anything decays; a power of two, so that dividing by it is exact
HEADS = range(16, 257)  # sizes of RWKV-7's kernel: from what a GPU's matrix product takes to what its state may hold


@cache
def _load(module: str, name: str) -> Kernel | None:
    """The package's function, or None if the package is not installed or cannot be used here."""
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    try:
        kernel: Kernel = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        logger.debug("no kernels of %s: %s", module, error)
        return None
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # built for another torch, say
        logger.warning("%s is installed but cannot be used, going on without: %s", module, error)
        return None
    return kernel


def _find(x: Tensor, module: str, name: str) -> Kernel | None:
    """The kernel if x (rows, time, ...) is on a GPU and holds more than one token a row: a step needs no kernel.

    In blocks under `torch.compile` the plain form runs: the compiler fuses it itself and could not look into a kernel.
    """
    if x.device.type != "cuda" or x.shape[1] == 1 or torch.compiler.is_compiling():
        return None
    if os.environ.get("FOUNDLING_NATIVE") == "0":
        return None
    return _load(module, name)


def scan_kernel(x: Tensor) -> Kernel | None:
    """What `scan` may call for `mamba_scan.selective_scan`. It holds 256 states a channel, as many as a config may."""
    return _find(x, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")


def ssd_kernel(x: Tensor) -> Kernel | None:
    """What `ssd` may call for `mamba2.ssd`."""
    return _find(x, "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")


def delta_kernel(r: Tensor) -> Kernel | None:
    """What `delta_rule` may call for `rwkv7_delta.delta_rule`."""
    return _find(r, "fla.ops.rwkv7", "chunk_rwkv7") if r.shape[-1] in HEADS else None


def wkv_kernel(k: Tensor, resets: Tensor | None, initial: tuple[Tensor, ...]) -> Kernel | None:
    """What `wkv` may call for `rwkv4_wkv.wkv`: it cannot forget in mid-row, nor differentiate the initial log."""
    if resets is not None or (torch.is_grad_enabled() and any(part.requires_grad for part in initial)):
        return None
    return _find(k, "fla.ops.rwkv4", "fused_recurrent_rwkv4")


def scan(
    kernel: Kernel,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    resets: Tensor | None,
    initial: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`mamba_scan.selective_scan` by the kernel, float32. The last state has no gradient: the kernel knows none.

    The kernel starts every row from nothing and never forgets, so both become tokens that nobody reads: one with an
    endless step before each reset, and before the row one for each state entry, which sets it.
    """
    where = None
    if resets is not None:
        where = torch.arange(x.shape[1], device=x.device) + resets.cumsum(1)  # each token's place behind the resets
        total = int(where[:, -1].max()) + 1
        gaps = torch.ones(x.shape[0], total, dtype=torch.bool, device=x.device).scatter(1, where, False)
        gaps &= torch.arange(total, device=x.device) < where[:, -1:]
        x, dt, b, c = (part.new_zeros(part.shape[0], total, part.shape[2]).scatter(1, _as(where, part), part)
                       for part in (x, dt, b, c))  # fmt: skip
        dt = dt.masked_fill(gaps[..., None], FORGET)
    before = 0
    if initial is not None:
        before = a.shape[1]
        age = torch.arange(before - 1, -1, -1, device=x.device)  # steps that follow an entry's own
        setting = (initial * torch.exp(-STILL * age * a) / STILL).transpose(1, 2)
        entry = torch.eye(before, device=x.device).expand(x.shape[0], -1, -1)
        x, dt = torch.cat([setting, x], 1), F.pad(dt, (0, 0, before, 0), value=STILL)
        b, c = torch.cat([entry, b], 1), F.pad(c, (0, 0, before, 0))
    x, dt, b, c = (part.transpose(1, 2).contiguous() for part in (x, dt, b, c))
    y, last = kernel(x, dt, a.contiguous(), b, c, delta_softplus=False, return_last_state=True)
    y = y.transpose(1, 2)[:, before:]
    return (y if where is None else y.gather(1, _as(where, y))), last.detach()


def ssd(
    kernel: Kernel,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    resets: Tensor | None,
    initial: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`mamba2.ssd` by the kernel, whose states are (head_dim, state) and whose chunks are powers of two from 16 on.

    A row's documents are counted from 0, and an initial state belongs to document 0.
    """
    y, last = kernel(
        x,
        dt,
        a,
        b,
        c,
        max(16, 1 << (chunk - 1).bit_length()),
        initial_states=None if initial is None else initial.mT.contiguous(),
        seq_idx=None if resets is None else resets.cumsum(1, dtype=torch.int32),
        dt_softplus=False,
        return_final_states=True,
    )
    return y, last.mT


def delta_rule(
    kernel: Kernel,
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    beta: Tensor,
    resets: Tensor | None,
    initial: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`rwkv7_delta.delta_rule` by the kernel, whose states are (key, value); documents are laid end to end."""
    state = None if initial is None else initial.mT.contiguous()
    if resets is None:
        y, last = kernel(r, log_w, k, v, alpha, beta, scale=1.0, initial_state=state, output_final_state=True)
        return y, last.mT
    rows, time = resets.shape
    starts = resets.clone()
    starts[:, 0] = True
    first = starts.flatten().nonzero()[:, 0]
    if state is not None:
        goes_on = (first % time == 0) & ~resets.flatten()[first]
        state = state[first // time] * goes_on[:, None, None, None]
    y, last = kernel(
        *(part.reshape(1, rows * time, *part.shape[2:]) for part in (r, log_w, k, v, alpha, beta)),
        scale=1.0,
        initial_state=state,
        output_final_state=True,
        cu_seqlens=F.pad(first, (0, 1), value=rows * time),
    )
    return y.view(rows, time, *y.shape[2:]), last[starts.sum(1).cumsum(0) - 1].mT


def wkv(
    kernel: Kernel, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`rwkv4_wkv.wkv` by the kernel, whose state is a sum of values, a sum of weights, and the log of their unit."""
    log, mean = initial
    state = torch.stack([mean, torch.ones_like(mean), log], 1)[:, :, None]  # (rows, 3, 1, dim)
    y, after = kernel((-w).log(), u, k, v, state)  # it takes the exponential and the sign itself
    total, weight, unit = after[:, :, 0].unbind(1)
    return y, (unit + weight.log(), total / weight)


def _as(where: Tensor, x: Tensor) -> Tensor:
    """Indices (rows, time) for gathering or scattering vectors (rows, ..., dim)."""
    return where[..., None].expand(-1, -1, x.shape[2])
