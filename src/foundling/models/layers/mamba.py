"""Mamba: a gated, convolved selective state space (Gu & Dao 2023, arXiv:2312.00752, section 3.4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.config import NormConfig
from foundling.models.context import Context
from foundling.models.layers.mamba_scan import selective_scan
from foundling.models.layers.norm import Norm
from foundling.models.layers.recurrent_config import MambaConfig
from foundling.models.layers.recurrent_context import (
    State,
    causal_conv,
    last_valid,
    new_slots,
    read_slots,
    resets,
    valid,
    write_slots,
)

DT_RANGE = (0.001, 0.1)  # step sizes at initialisation, log-uniform


class ShortConv(nn.Module):
    """Weights of a depthwise causal convolution, in Conv1d's layout: weight (dim, 1, width), bias (dim,)."""

    def __init__(self, dim: int, width: int, bias: bool) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(dim, 1, width))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def init_weights(self, generator: torch.Generator) -> None:
        """Uniform with the fan-in of a depthwise filter."""
        bound = 1 / math.sqrt(self.width)
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, ctx: Context, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (rows, time, dim), before (rows, width - 1, dim) or None -> the convolution and the next `before`."""
        out = causal_conv(x, self.weight[:, 0], self.bias, ctx, before)
        if before is None:
            return out, x[:, :0]
        return out, last_valid(torch.cat([before.to(x), x], 1), ctx, self.width - 1)


class TimeStep(nn.Module):
    """The low-rank projection to step sizes before the softplus: weight (dim, rank), bias (dim,)."""

    EXACT = ("bias",)

    def __init__(self, rank: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, rank))
        self.bias = nn.Parameter(torch.empty(dim))

    def init_weights(self, generator: torch.Generator) -> None:
        """Step sizes log-uniform in DT_RANGE at first (section 3.6)."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        self.bias.copy_(initial_dt_bias(self.bias.shape[0], generator))

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, time, rank) -> (rows, time, dim)."""
        return F.linear(x, self.weight).float() + self.bias


def initial_dt_bias(dim: int, generator: torch.Generator) -> Tensor:
    """Inverse softplus of step sizes drawn log-uniformly from DT_RANGE."""
    low, high = (math.log(end) for end in DT_RANGE)
    dt = torch.exp(torch.rand(dim, generator=generator) * (high - low) + low)
    return dt + torch.log(-torch.expm1(-dt))


class Mamba(nn.Module):
    """in_proj -> (u, gate); u: short convolution, SiLU, selective scan; out_proj(y * SiLU(gate))."""

    EXACT = ("A_log", "D")  # rounded to bf16, a decay would be another one at the end of a long row

    def __init__(self, config: MambaConfig, dim: int) -> None:
        super().__init__()
        self.config = c = config
        self.in_proj = nn.Linear(dim, 2 * c.inner, c.proj_bias)
        self.conv1d = ShortConv(c.inner, c.conv, c.conv_bias)
        self.x_proj = nn.Linear(c.inner, c.dt_rank + 2 * c.state, bias=False)
        self.dt_proj = TimeStep(c.dt_rank, c.inner)
        self.A_log = nn.Parameter(torch.empty(c.inner, c.state))
        self.D = nn.Parameter(torch.empty(c.inner))
        self.out_proj = nn.Linear(c.inner, dim, c.proj_bias)
        self.dt_norm = self.b_norm = self.c_norm = None
        if c.inner_norm_eps is not None:
            norm = NormConfig(eps=c.inner_norm_eps)
            self.dt_norm, self.b_norm, self.c_norm = Norm(c.dt_rank, norm), Norm(c.state, norm), Norm(c.state, norm)

    def init_weights(self, generator: torch.Generator) -> None:
        """A = -(1, 2, ..., state) in every channel (S4D-Real), D = 1."""
        self.A_log.copy_(torch.arange(1, self.config.state + 1).log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        before, initial = read_slots(state, ctx) or (None, None)
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u, after = self.conv1d(u, ctx, before)
        u = F.silu(u)
        dt, b, c = self._selection(u)
        counts = valid(ctx, x.shape[1])
        if counts is not None:
            dt = dt * counts[..., None]
        y, last = selective_scan(u, dt, -self.A_log.float().exp(), b, c, resets=resets(ctx), initial=initial)
        write_slots(state, ctx, (after, last))
        y = torch.addcmul(y, u, self.D) * F.silu(gate)
        return self.out_proj(y.to(x.dtype))

    def _selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step sizes (rows, time, inner) and B, C (rows, time, state), all from the token."""
        config = self.config
        dt, b, c = self.x_proj(u).split([config.dt_rank, config.state, config.state], dim=-1)
        if self.dt_norm is not None and self.b_norm is not None and self.c_norm is not None:
            dt, b, c = self.dt_norm(dt), self.b_norm(b), self.c_norm(c)
        return F.softplus(self.dt_proj(dt)), b, c

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The convolution's last inputs (slots, conv - 1, inner) and the state space's state (slots, inner, state)."""
        c = self.config
        (window,) = new_slots(slots, [(c.conv - 1, c.inner)], dtype, device)
        (states,) = new_slots(slots, [(c.inner, c.state)], torch.float32, device)
        return window, states
