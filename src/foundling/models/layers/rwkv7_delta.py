"""The generalised delta rule in chunks of matrix products.

    S_t = S_(t-1) (diag(w_t) + alpha_t beta_t^T) + v_t k_t^T,    y_t = S_t r_t          S: (value, key)

With W_t the product of the decays from the chunk's start to t, S~_t = S_t diag(1 / W_t) only grows by outer products:
u_t beta_t^T / W_t and v_t k_t^T / W_t, where u_t = S_(t-1) alpha_t depends on the earlier u: a unit lower triangular
system per chunk (the WY form of Yang et al. 2024, arXiv:2406.06484, with decays). 1 / W_t stays below exp(9.8) because
RWKV-7's decays are at least exp(-0.61) and a chunk has at most 16 tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from foundling.models.layers import gpu_kernels


def delta_rule(
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    beta: Tensor,
    chunk: int,
    *,
    resets: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence, with a fused GPU kernel where there is one.

    Args:
        r, log_w, k, v, alpha, beta: (rows, time, heads, head_dim). With log_w, k, alpha, beta 0 a token does nothing.
        chunk: tokens of a chunk, at most 16.
        resets: (rows, time) bool, True where the state is dropped before the token.
        initial: (rows, heads, head_dim, head_dim), zeros if None.

    Returns:
        y (rows, time, heads, head_dim) and the last state.
    """
    with torch.autocast(r.device.type, enabled=False):
        fused = gpu_kernels.delta_kernel(r)
        if fused is not None:
            return gpu_kernels.delta_rule(fused, r, log_w, k, v, alpha, beta, resets, initial)
        rows, time, heads, size = r.shape
        length = min(chunk, time)
        r, log_w, k, v, alpha, beta = (_chunks(part, length) for part in (r, log_w, k, v, alpha, beta))
        document = _documents(resets, rows, time, length, r.device)  # (rows, 1, chunks, length)
        logs = log_w.cumsum(-2)
        whole = logs.exp()  # W_t
        r, alpha = r * whole, alpha * (logs - log_w).exp()
        k, beta = k / whole, beta / whole

        same = document[..., :, None] == document[..., None, :]
        earlier = same & torch.ones(length, length, dtype=torch.bool, device=r.device).tril(-1)
        now = same & torch.ones(length, length, dtype=torch.bool, device=r.device).tril()
        system = -(alpha @ beta.mT).masked_fill(~earlier, 0.0)
        in_first = (document == 0)[..., None]
        right = torch.cat([alpha * in_first, (alpha @ k.mT).masked_fill(~earlier, 0.0) @ v], -1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        from_state, own = solved.split([size, size], -1)  # u = from_state S^T + own
        r_beta = (r @ beta.mT).masked_fill(~now, 0.0)
        local = (r @ k.mT).masked_fill(~now, 0.0) @ v + r_beta @ own
        reading = r * in_first + r_beta @ from_state  # y = reading S^T + local

        in_last = (document == document[..., -1:])[..., None]
        untouched = (document[..., -1:] == 0)[..., None]
        end = whole[..., -1:, :]
        beta, k = beta * in_last * end, k * in_last * end
        move = torch.diag_embed((end * untouched)[..., 0, :]) + from_state.mT @ beta  # S' = S move + added
        added = own.mT @ beta + v.mT @ k
        state = r.new_zeros(rows, heads, size, size) if initial is None else initial.to(r.dtype)
        states = []
        for step in range(r.shape[2]):
            states.append(state)
            state = torch.baddbmm(
                added[:, :, step].flatten(0, 1), state.flatten(0, 1), move[:, :, step].flatten(0, 1)
            ).unflatten(0, (rows, heads))
        y = local + reading @ torch.stack(states, 2).mT
        return y.permute(0, 2, 3, 1, 4).reshape(rows, -1, heads, size)[:, :time], state


def _chunks(x: Tensor, length: int) -> Tensor:
    """(rows, time, heads, size) -> (rows, heads, chunks, length, size), zeros at the end."""
    padded = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % length))
    return padded.unflatten(1, (-1, length)).permute(0, 3, 1, 2, 4)


def _documents(resets: Tensor | None, rows: int, time: int, length: int, device: torch.device) -> Tensor:
    """(rows, 1, chunks, length): how many documents have started in the chunk, up to and including each position."""
    starts = torch.zeros(rows, time, dtype=torch.bool, device=device) if resets is None else resets
    return F.pad(starts, (0, -time % length)).view(rows, 1, -1, length).cumsum(-1)
