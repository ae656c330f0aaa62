"""Token embeddings and what is added to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundling.models.config import ModelConfig
from foundling.models.context import Context
from foundling.models.layers.norm import Norm


class InputEmbedding(nn.Module):
    """What an architecture adds to the token embeddings: absolute positions, token types, a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        parts = config.embedding
        self.config, self.dim = parts, config.dim
        rows = config.max_positions + parts.position_offset
        self.positions = nn.Embedding(rows, config.dim) if parts.positions == "learned" else None
        self.types = nn.Embedding(parts.token_types, config.dim) if parts.token_types else None
        self.norm = Norm(config.dim, config.norm) if parts.norm else None

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x (rows, time, dim), the token embeddings -> (rows, time, dim)."""
        if self.config.scale != 1.0:
            x = x * torch.tensor(self.config.scale, dtype=x.dtype, device=x.device)
        if self.types is not None:
            kinds = torch.zeros_like(ctx.positions) if ctx.token_types is None else ctx.token_types
            x = x + self.types(kinds)
        if self.positions is not None:
            x = x + self.positions(ctx.positions + self.config.position_offset)
        if self.config.positions == "sinusoidal":
            x = x + sinusoids(ctx.positions, self.dim).to(x.dtype)
        if self.norm is not None:
            x = self.norm(x)
        return x


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """sin(p / 10000^(2i/dim)) and cos in turn (Vaswani et al. 2017, section 3.5): (rows, time) -> (rows, time, dim)."""
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    angles = positions[..., None].float() / 10000.0**exponents
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
