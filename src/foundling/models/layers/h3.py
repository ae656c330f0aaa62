"""H3, "Hungry Hungry Hippos" (Fu et al. 2022, arXiv:2212.14052, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundling.models.context import Context
from foundling.models.layers.mamba import ShortConv
from foundling.models.layers.recurrent_config import H3Config
from foundling.models.layers.recurrent_context import State, new_slots, read_slots, write_slots
from foundling.models.layers.s4 import run_space
from foundling.models.layers.s4_space import DiagonalSpace


class H3(nn.Module):
    """q * space(shift(k) (x) v) per head: the shift remembers the token before, the space what met it.

    The shift state space (A a shift matrix, B the first unit vector, C learned) is a causal filter of C's entries.
    """

    def __init__(self, config: H3Config, dim: int) -> None:
        super().__init__()
        self.config = config
        self.n_heads = dim // config.head_dim
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.shift = ShortConv(dim, config.shift, bias=False)
        self.space = DiagonalSpace(self.n_heads, config.state)
        self.D = nn.Parameter(torch.empty(self.n_heads))
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """D standard normal."""
        nn.init.normal_(self.D, generator=generator)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        heads = (self.n_heads, self.config.head_dim)
        before = None if state is None else (read_slots(state[:1], ctx) or (None,))[0]
        k, after = self.shift(self.k_proj(x), ctx, before)
        if state is not None:
            write_slots(state[:1], ctx, (after,))
        k, v, q = (part.float().unflatten(-1, heads) for part in (k, self.v_proj(x), self.q_proj(x)))
        met = (k[..., :, None] * v[..., None, :]).flatten(3)  # (rows, time, heads, head_dim ** 2)
        remembered = run_space(self.space, met, ctx, None if state is None else state[1:])
        remembered = torch.addcmul(remembered, met, self.D[:, None]).unflatten(-1, (heads[1], heads[1]))
        y = (q[..., :, None] * remembered).sum(-2)
        return self.out_proj(y.flatten(2).to(x.dtype))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The shift's last keys (slots, shift - 1, dim) and the space's state (slots, head_dim^2, heads, pairs, 2)."""
        width, dim = self.config.head_dim**2, self.n_heads * self.config.head_dim
        shift = new_slots(slots, [(self.config.shift - 1, dim)], dtype, device)
        return shift + new_slots(slots, [(width, *self.space.state_shape)], torch.float32, device)
