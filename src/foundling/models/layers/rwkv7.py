"""RWKV-7's time mixing (Peng et al. 2025, arXiv:2503.14456, section 4): a matrix state under a generalised delta rule.

Per head, with decay w, removal key kappa, learning rate a, replacement key k, value v, receptance r (vectors over the
head's channels):

    S_t = S_(t-1) (diag(w_t) - kappa_t (a_t * kappa_t)^T) + v_t k_t^T          S: (value, key)
    y_t = S_t r_t
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.context import Context
from foundling.models.layers.recurrent_config import RWKV7Config
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
from foundling.models.layers.rwkv4 import Shift
from foundling.models.layers.rwkv7_delta import delta_rule

DECAY_SCALE = -math.exp(-0.5)  # log w lies between this and 0, so a chunk of 16 tokens keeps at least exp(-9.8)


class LowRank(nn.Module):
    """bias + act(x A) B: how RWKV-7 makes decays, rates and gates from the token."""

    def __init__(self, dim: int, rank: int, activation: str = "none", bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.reduce = nn.Linear(dim, rank, bias=False)
        self.expand = nn.Linear(rank, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, time, dim) -> (rows, time, dim)."""
        inner = self.reduce(x)
        inner = {"none": inner, "tanh": inner.tanh(), "sigmoid": inner.sigmoid()}[self.activation]
        return self.expand(inner)


class RWKV7(nn.Module):
    """Token shift, the recurrence above per head, a norm of each head, a bonus for the token itself, a gate."""

    def __init__(self, config: RWKV7Config, dim: int) -> None:
        super().__init__()
        self.config, self.dim, self.n_heads = config, dim, dim // config.head_dim
        self.shift_r, self.shift_w, self.shift_k = Shift(dim), Shift(dim), Shift(dim)
        self.shift_v, self.shift_a, self.shift_g = Shift(dim), Shift(dim), Shift(dim)
        self.r_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.decay = LowRank(dim, config.decay_rank, "tanh")
        self.rate = LowRank(dim, config.rate_rank)
        self.gate = LowRank(dim, config.gate_rank, "sigmoid", bias=False)
        self.value_mix = None if config.value_rank is None else LowRank(dim, config.value_rank)
        self.removal = nn.Parameter(torch.empty(dim))  # k_k: from key to removal key
        self.replacement = nn.Parameter(torch.empty(dim))  # k_a: how much the rate scales the key
        self.bonus = nn.Parameter(torch.empty(dim))  # r_k
        self.head_norm = nn.Parameter(torch.empty(2, dim))  # scale and shift of the norm of each head
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """The reference implementation's constants where they do not depend on the layer."""
        nn.init.constant_(self.removal, 0.85)
        nn.init.ones_(self.replacement)
        nn.init.zeros_(self.bonus)
        self.head_norm[0] = 1.0
        self.head_norm[1] = 0.0

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        before = read_slots(state, ctx)
        previous = token_shift(x, ctx, None if before is None else before[0])
        r = self._heads(self.r_proj(self.shift_r(x, previous)))
        k = self.k_proj(self.shift_k(x, previous)).float()
        v = self._heads(self._value(self.shift_v(x, previous), ctx))
        rate = self.rate(self.shift_a(x, previous)).float().sigmoid()
        log_w = DECAY_SCALE * self._heads(self.decay(self.shift_w(x, previous)).float().sigmoid())
        removal = F.normalize(self._heads(k * self.removal), dim=-1)
        k = self._heads(k * (1 + (rate - 1) * self.replacement))
        rate = self._heads(rate)
        counts = valid(ctx, x.shape[1])
        if counts is not None:
            mask = counts[..., None, None]
            log_w, removal, k_state = log_w * mask, removal * mask, k * mask
        else:
            k_state = k
        initial = None if before is None else before[1]
        y, last = delta_rule(
            r, log_w, k_state, v, -removal, removal * rate, self.config.chunk, resets=resets(ctx), initial=initial
        )
        if state is not None:
            token = last_valid(torch.cat([previous[:, :1], x], 1), ctx)[:, 0]
            write_slots(state, ctx, (token, last))
        y = self._normed(y) + ((r * k * self._heads(self.bonus)).sum(-1, keepdim=True) * v).flatten(2)
        return self.out_proj((y * self.gate(self.shift_g(x, previous))).to(x.dtype))

    def _value(self, x: Tensor, ctx: Context) -> Tensor:
        """Values, drawn towards those of the stack's first RWKV-7 layer (value residual learning)."""
        v = self.v_proj(x)
        first: Tensor = ctx.once("rwkv7_first_value", lambda: v)
        if self.value_mix is None:
            return v
        return torch.lerp(v, first.to(v.dtype), self.value_mix(x).sigmoid())

    def _heads(self, x: Tensor) -> Tensor:
        return x.float().unflatten(-1, (self.n_heads, self.config.head_dim))

    def _normed(self, y: Tensor) -> Tensor:
        """Layer norm within each head, then scale and shift: (rows, time, heads, head_dim) -> (rows, time, dim)."""
        eps = 1e-5 * self.config.head_dim
        normed = F.layer_norm(y, y.shape[-1:], eps=eps).flatten(2)
        return torch.addcmul(self.head_norm[1], normed, self.head_norm[0])

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The last token (slots, dim) and the state (slots, heads, head_dim, head_dim) float32."""
        size = self.config.head_dim
        token = new_slots(slots, [(self.dim,)], dtype, device)
        return token + new_slots(slots, [(self.n_heads, size, size)], torch.float32, device)
