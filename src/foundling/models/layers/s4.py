"""S4 as a mixer: a state space per channel, a nonlinearity and a projection that mixes the channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.context import Context
from foundling.models.layers.recurrent_config import S4Config
from foundling.models.layers.recurrent_context import State, new_slots, read_slots, repack, unpack, write_slots
from foundling.models.layers.s4_space import DiagonalSpace, LowRankSpace, causal_fft_conv

SPACES: dict[str, type[DiagonalSpace] | type[LowRankSpace]] = {"diagonal": DiagonalSpace, "dplr": LowRankSpace}


class S4(nn.Module):
    """out_proj(gelu(space(x) + D x)), the projection gated (arXiv:2111.00396, appendix D)."""

    def __init__(self, config: S4Config, dim: int) -> None:
        super().__init__()
        self.config = config
        self.space = SPACES[config.structure](dim, config.state)
        self.D = nn.Parameter(torch.empty(dim))
        self.out_proj = nn.Linear(dim, 2 * dim if config.gated else dim)

    def init_weights(self, generator: torch.Generator) -> None:
        """D standard normal, as in S4's code."""
        nn.init.normal_(self.D, generator=generator)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        y = torch.addcmul(run_space(self.space, x.float()[..., None], ctx, state)[..., 0], x, self.D)
        y = F.gelu(y) if self.config.activation == "gelu" else y
        y = self.out_proj(y.to(x.dtype))
        return F.glu(y, dim=-1) if self.config.gated else y

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The space's complex state as (slots, 1, dim, pairs, 2) float32."""
        return new_slots(slots, [(1, *self.space.state_shape)], torch.float32, device)


def run_space(space: DiagonalSpace | LowRankSpace, u: Tensor, ctx: Context, state: State | None) -> Tensor:
    """A state space over each document: u (rows, time, channels, width) -> the same shape.

    A convolution cannot be reset in mid-row, so packed documents are laid out one per row first.
    """
    if state is not None:
        assert ctx.cache is not None, "a state needs ctx.cache"
        (before,) = read_slots(state, ctx) or ()
        y, after = space.resume(u, before, ctx.cache.new_lengths)
        write_slots(state, ctx, (after,))
        return y
    packed = unpack(u.flatten(2), ctx)
    if packed is None:
        return causal_fft_conv(u, space.kernel(u.shape[1]))
    documents, where = packed
    documents = documents.unflatten(-1, u.shape[2:])
    y = causal_fft_conv(documents, space.kernel(documents.shape[1]))
    return repack(y.flatten(2), where).view_as(u)
