"""Mamba-2: the state space dual, computed by matrix products over chunks (Dao & Gu 2024, arXiv:2405.21060).

Per head, with a scalar decay:   h_t = exp(dt_t a) h_(t-1) + dt_t B_t x_t^T,   y_t = C_t^T h_t     h: (state, head_dim)

Inside a chunk the outputs are (L * C B^T) x with the decays L_ts = exp(sum of dt a over (s, t]) (section 6, listing 1);
from chunk to chunk only the state is carried.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.context import Context
from foundling.models.layers import gpu_kernels
from foundling.models.layers.mamba import ShortConv, initial_dt_bias
from foundling.models.layers.recurrent_config import Mamba2Config
from foundling.models.layers.recurrent_context import State, new_slots, read_slots, resets, valid, write_slots


class Mamba2(nn.Module):
    """in_proj -> (gate, xBC, dt); xBC: short convolution, SiLU; SSD; out_proj(norm(y * SiLU(gate)))."""

    EXACT = ("A_log", "D", "dt_bias")

    def __init__(self, config: Mamba2Config, dim: int) -> None:
        super().__init__()
        self.config = c = config
        self.inner, self.shared = c.n_heads * c.head_dim, c.n_groups * c.state
        self.in_proj = nn.Linear(dim, 2 * self.inner + 2 * self.shared + c.n_heads, c.proj_bias)
        self.conv1d = ShortConv(self.inner + 2 * self.shared, c.conv, c.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(c.n_heads))
        self.A_log = nn.Parameter(torch.empty(c.n_heads))
        self.D = nn.Parameter(torch.empty(c.n_heads))
        self.norm = GatedNorm(self.inner, c.n_groups, c.norm_eps)
        self.out_proj = nn.Linear(self.inner, dim, c.proj_bias)

    def init_weights(self, generator: torch.Generator) -> None:
        """A uniform in (-16, -1), D = 1, step sizes log-uniform (the paper's code)."""
        self.A_log.copy_(torch.rand(self.A_log.shape, generator=generator).mul(15).add(1).log())
        nn.init.ones_(self.D)
        self.dt_bias.copy_(initial_dt_bias(self.config.n_heads, generator))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        c = self.config
        before, initial = read_slots(state, ctx) or (None, None)
        gate, xbc, dt = self.in_proj(x).split([self.inner, self.inner + 2 * self.shared, c.n_heads], dim=-1)
        xbc, after = self.conv1d(xbc, ctx, before)
        u, b, c_out = F.silu(xbc).float().split([self.inner, self.shared, self.shared], dim=-1)
        dt = F.softplus(dt.float() + self.dt_bias).clamp(c.dt_min, c.dt_max)
        counts = valid(ctx, x.shape[1])
        if counts is not None:
            dt = dt * counts[..., None]
        u = u.unflatten(-1, (c.n_heads, c.head_dim))
        b, c_out = (part.unflatten(-1, (c.n_groups, c.state)) for part in (b, c_out))
        a = -self.A_log.float().exp()
        with torch.autocast(x.device.type, enabled=False):
            y, last = ssd(u, dt, a, b, c_out, c.chunk, resets=resets(ctx), initial=initial)
        write_slots(state, ctx, (after, last))
        y = torch.addcmul(y, u, self.D[:, None]).flatten(2)
        return self.out_proj(self.norm(y, gate).to(x.dtype))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The convolution's last inputs (slots, conv - 1, channels) and the state (slots, heads, state, head_dim)."""
        c = self.config
        (window,) = new_slots(slots, [(c.conv - 1, self.inner + 2 * self.shared)], dtype, device)
        (states,) = new_slots(slots, [(c.n_heads, c.state, c.head_dim)], torch.float32, device)
        return window, states


class GatedNorm(nn.Module):
    """RMS norm of y * SiLU(gate) within each group of channels, times a weight."""

    def __init__(self, dim: int, n_groups: int, eps: float) -> None:
        super().__init__()
        self.n_groups, self.eps = n_groups, eps
        self.weight = nn.Parameter(torch.empty(dim))

    def init_weights(self, generator: torch.Generator) -> None:
        """The identity scale."""
        nn.init.ones_(self.weight)

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        """y, gate (rows, time, dim) -> (rows, time, dim)."""
        grouped = (y * F.silu(gate.to(y.dtype))).unflatten(-1, (self.n_groups, -1))
        return F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps).flatten(-2) * self.weight


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    *,
    resets: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence above for all heads, with a fused GPU kernel where there is one.

    Args:
        x: (rows, time, heads, head_dim).
        dt: (rows, time, heads), after the softplus; 0 leaves the state as it is.
        a: (heads,) negative reals.
        b: (rows, time, groups, state); c: the same shape. A group serves heads / groups heads.
        resets: (rows, time) bool, True where the state is dropped before the token.
        initial: (rows, heads, state, head_dim), zeros if None.

    Returns:
        y, shaped like x, without the skip `D x`, and the last state (rows, heads, state, head_dim).
    """
    fused = gpu_kernels.ssd_kernel(x)
    if fused is not None:
        return gpu_kernels.ssd(fused, x, dt, a, b, c, chunk, resets, initial)
    rows, time, heads, head_dim = x.shape
    groups, per_group = b.shape[2], heads // b.shape[2]
    chunk = min(chunk, time)
    dtx = _chunks(x * dt[..., None], chunk).unflatten(2, (groups, per_group))  # (rows, chunks, groups, per_group, Q, P)
    b, c = _chunks(b, chunk), _chunks(c, chunk)  # (rows, chunks, groups, Q, state)
    log_decay = _chunks((dt * a)[..., None], chunk)[..., 0].cumsum(-1)  # (rows, chunks, heads, Q)
    log_decay = log_decay.unflatten(2, (groups, per_group))
    ends = None if resets is None else _document_ends(resets, chunk)

    scores = (c @ b.mT)[:, :, :, None] * _decays(log_decay, ends)  # (rows, chunks, groups, per_group, Q, Q)
    local = scores @ dtx
    to_end = (log_decay[..., -1:] - log_decay).exp()
    from_start = log_decay.exp()
    if ends is not None:
        to_end, from_start = to_end * ends.in_last[:, :, None, None], from_start * ends.in_first[:, :, None, None]
    own = b.mT[:, :, :, None] @ (dtx * to_end[..., None])  # (rows, chunks, groups, per_group, state, P)
    start = x.new_zeros(own[:, 0].shape) if initial is None else initial.unflatten(1, (groups, per_group)).to(own)
    states, last = _carry(own, from_start[..., -1], start)
    y = local + (c[:, :, :, None] @ states) * from_start[..., None]
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(rows, -1, heads, head_dim)[:, :time]
    return y, last.flatten(1, 2)


class _Ends:
    """Within each chunk: which positions belong to its first and its last document, and the document's number."""

    def __init__(self, document: Tensor) -> None:
        self.document = document  # (rows, chunks, Q); 0 until the chunk's first reset
        self.in_first = document == 0
        self.in_last = document == document[..., -1:]


def _document_ends(resets: Tensor, chunk: int) -> _Ends:
    padded = F.pad(resets, (0, -resets.shape[1] % chunk))
    return _Ends(padded.view(resets.shape[0], -1, chunk).cumsum(-1))


def _decays(log_decay: Tensor, ends: _Ends | None) -> Tensor:
    """exp(sum of log decays over (s, t]) for s <= t in the same document, else 0: (..., Q, Q)."""
    length = log_decay.shape[-1]
    blocked = torch.ones(length, length, dtype=torch.bool, device=log_decay.device).triu(1)
    if ends is not None:
        blocked = blocked | (ends.document[..., :, None] != ends.document[..., None, :])[:, :, None, None]
    difference = log_decay[..., :, None] - log_decay[..., None, :]
    return difference.masked_fill(blocked, float("-inf")).exp()


def _carry(own: Tensor, left: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk, stacked at dimension 1, and the one after the last."""
    before = []
    for added, kept in zip(own.unbind(1), left.unbind(1), strict=True):
        before.append(state)
        state = torch.addcmul(added, kept[..., None, None], state)
    return torch.stack(before, 1), state


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(rows, time, n, m) -> (rows, chunks, n, chunk, m), zeros at the end."""
    padded = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % chunk))
    return padded.unflatten(1, (-1, chunk)).transpose(2, 3)
