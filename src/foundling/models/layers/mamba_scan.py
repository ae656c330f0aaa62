"""The selective scan of Mamba in its parallel form, on any device.

Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", equations 2-4 and algorithm 2:

    h_t = exp(dt_t A) * h_(t-1) + dt_t B_t x_t        h: (dim, state)
    y_t = C_t . h_t

Time is cut into chunks of about sqrt(time): all chunks advance together from an empty state, then the state is carried
over the chunks, then what the carried state adds to each position is computed at once. So the number of sequential
steps grows with the square root of the time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from foundling.models.layers import gpu_kernels, mamba_kernel


def selective_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    resets: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence above, with a fused kernel where there is one.

    Args:
        x: (rows, time, dim) input.
        dt: (rows, time, dim) step sizes, after the softplus; 0 leaves the state as it is.
        a: (dim, state) negative reals.
        b: (rows, time, state); c: (rows, time, state).
        resets: (rows, time) bool, True where the state is dropped before the token.
        initial: (rows, dim, state), zeros if None.

    Returns:
        y (rows, time, dim) float32, without the skip `D x`, and the last state (rows, dim, state) float32.
    """
    x, dt, a, b, c = x.float(), dt.float(), a.float(), b.float(), c.float()
    initial = None if initial is None else initial.float()
    if x.device.type == "cpu" and x.shape[1] > 1 and mamba_kernel.available():
        return mamba_kernel.scan(x, dt, a, b, c, resets, initial)
    fused = gpu_kernels.scan_kernel(x)
    if fused is not None:
        return gpu_kernels.scan(fused, x, dt, a, b, c, resets, initial)
    return chunked_scan(x, dt, a, b, c, resets=resets, initial=initial)


def chunked_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    resets: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` in plain torch operations, in the inputs' precision."""
    rows, time, dim = x.shape
    length = max(1, math.isqrt(time))
    chunks = -(-time // length)
    dt_c, dtx, b_c, c_c = (_chunks(part, length, chunks) for part in (dt, dt * x, b, c))
    keep = None if resets is None else 1 - _chunks(resets[..., None].to(x.dtype), length, chunks)
    local, last = _advance(dt_c, dtx, a, b_c, c_c, keep)

    # log of what is left of the carried state, (length, rows, chunks, dim, state)
    decay = dt_c.cumsum(0)[..., None] * a
    alive = decay.exp() if keep is None else decay.exp() * keep.cumprod(0)[..., None]
    state = x.new_zeros(rows, dim, a.shape[1]) if initial is None else initial
    carried = []
    for left, own in zip(alive[-1].unbind(1), last.unbind(1), strict=True):
        carried.append(state)
        state = left * state + own
    carry = (alive * torch.stack(carried, 1)) @ c_c[..., None]  # (length, rows, chunks, dim, 1)
    y = (local + carry[..., 0]).permute(1, 2, 0, 3).reshape(rows, chunks * length, dim)
    return y[:, :time], state


def _advance(dt: Tensor, dtx: Tensor, a: Tensor, b: Tensor, c: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """All chunks from an empty state: outputs (length, rows, chunks, dim), last states (rows, chunks, dim, state)."""
    state, out = None, []
    for step in range(dt.shape[0]):
        entered = dtx[step][..., None] * b[step][..., None, :]
        if state is not None:
            decay = torch.exp(dt[step][..., None] * a)
            decay = decay if keep is None else decay * keep[step][..., None]
            entered = torch.addcmul(entered, decay, state)
        state = entered
        out.append((state @ c[step][..., None])[..., 0])
    assert state is not None
    return torch.stack(out), state


def _chunks(x: Tensor, length: int, chunks: int) -> Tensor:
    """(rows, time, n) -> (length, rows, chunks, n). Padding has dt = 0, so it changes no state."""
    padded = F.pad(x, (0, 0, 0, chunks * length - x.shape[1]))
    return padded.view(x.shape[0], chunks, length, x.shape[2]).permute(2, 0, 1, 3).contiguous()
