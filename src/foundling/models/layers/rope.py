"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.models.config import RopeConfig
from foundling.models.context import Context


def rope_tables(config: RopeConfig, head_dim: int, ctx: Context, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of every token's position, (rows, time, 1, head_dim) each; made once per pass."""

    def make() -> tuple[Tensor, Tensor]:
        angles = ctx.positions[..., None].float() * inverse_frequencies(config, head_dim, ctx.positions.device)
        cos, sin = angles.cos(), angles.sin()
        tables = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return tables[0].unsqueeze(2).to(dtype), tables[1].unsqueeze(2).to(dtype)

    return ctx.once(("rope", config, head_dim, dtype), make)


def inverse_frequencies(config: RopeConfig, dim: int, device: torch.device) -> Tensor:
    """theta^(-2i/dim) for i < dim/2, float32."""
    exponents = torch.arange(0, dim, 2, device=device, dtype=torch.int64).float() / dim
    return 1.0 / config.theta**exponents


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i+d/2}) of each head of x (rows, time, heads, d) by their angle.

    roll swaps the halves and the sign sits in the sine: three memory passes instead of seven.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)
