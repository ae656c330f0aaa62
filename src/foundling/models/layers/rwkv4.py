"""RWKV-4's two mixers (Peng et al. 2023, arXiv:2305.13048): time mixing and channel mixing, both with a token shift.

Channel mixing is a mixer here, not a feed-forward, because it too looks at the previous token and so has a state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.context import Context
from foundling.models.layers.recurrent_config import RWKV4ChannelConfig, RWKV4Config
from foundling.models.layers.recurrent_context import (
    State,
    last_valid,
    new_slots,
    read_slots,
    resets,
    token_shift,
    valid,
    write_slots,
)
from foundling.models.layers.rwkv4_wkv import EMPTY, state_after, wkv


class Shift(nn.Module):
    """Per-channel weights of a token against its predecessor: x * weight + previous * (1 - weight)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))

    def init_weights(self, generator: torch.Generator) -> None:
        """From the predecessor alone in the first channel to the token alone in the last."""
        dim = self.weight.shape[0]
        self.weight.copy_((torch.arange(dim) / dim).sqrt())

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """x, previous (rows, time, dim) -> (rows, time, dim)."""
        return torch.lerp(previous, x, self.weight.to(x.dtype))


class RWKV4(nn.Module):
    """Time mixing: out_proj(sigmoid(receptance) * wkv(key, value)), equations 11-16."""

    EXACT = ("decay", "bonus")

    def __init__(self, config: RWKV4Config, dim: int) -> None:
        super().__init__()
        self.dim, self.inner = dim, config.inner
        self.shift_k, self.shift_v, self.shift_r = Shift(dim), Shift(dim), Shift(dim)
        self.k_proj = nn.Linear(dim, config.inner, bias=False)
        self.v_proj = nn.Linear(dim, config.inner, bias=False)
        self.r_proj = nn.Linear(dim, config.inner, bias=False)
        self.decay = nn.Parameter(torch.empty(config.inner))
        self.bonus = nn.Parameter(torch.empty(config.inner))
        self.out_proj = nn.Linear(config.inner, dim, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Decays from very slow to very fast, bonus log(0.3) with a zigzag (appendix E)."""
        channel = torch.arange(self.inner)
        self.decay.copy_(-5 + 8 * channel / max(1, self.inner - 1))
        self.bonus.copy_(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        before = read_slots(state, ctx, empty=(0.0, EMPTY, 0.0))
        previous = token_shift(x, ctx, None if before is None else before[0])
        k = self.k_proj(self.shift_k(x, previous)).float()
        v = self.v_proj(self.shift_v(x, previous)).float()
        r = self.r_proj(self.shift_r(x, previous)).sigmoid()
        w, counts = -self.decay.float().exp(), valid(ctx, x.shape[1])
        if counts is not None:
            k = k.masked_fill(~counts[..., None], EMPTY)
        y, _ = wkv(k, v, w, self.bonus.float(), resets=resets(ctx), initial=None if before is None else before[1:])
        if state is not None and before is not None and counts is not None:
            last = state_after(k, v, w, counts.sum(1), before[1:])
            write_slots(state, ctx, (_last_token(x, previous, ctx), *last))
        return self.out_proj(r * y.to(r.dtype))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The last token (slots, dim), and log weight and mean of the past values, each (slots, inner) float32."""
        token = new_slots(slots, [(self.dim,)], dtype, device)
        return token + new_slots(slots, [(self.inner,), (self.inner,)], torch.float32, device)


class RWKV4Channel(nn.Module):
    """Channel mixing: sigmoid(receptance) * down(relu(key)^2), equations 17-19."""

    def __init__(self, config: RWKV4ChannelConfig, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.shift_k, self.shift_r = Shift(dim), Shift(dim)
        self.k_proj = nn.Linear(dim, config.hidden, bias=False)
        self.r_proj = nn.Linear(dim, dim, bias=False)
        self.down = nn.Linear(config.hidden, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        shifted = read_slots(state, ctx)
        previous = token_shift(x, ctx, None if shifted is None else shifted[0])
        if state is not None:
            write_slots(state, ctx, (_last_token(x, previous, ctx),))
        k = F.relu(self.k_proj(self.shift_k(x, previous))).square()
        return self.r_proj(self.shift_r(x, previous)).sigmoid() * self.down(k)

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The last token (slots, dim)."""
        return new_slots(slots, [(self.dim,)], dtype, device)


def _last_token(x: Tensor, previous: Tensor, ctx: Context) -> Tensor:
    """(rows, dim): each row's last valid token, the one from before the call if it has none."""
    return last_valid(torch.cat([previous[:, :1], x], 1), ctx)[:, 0]
