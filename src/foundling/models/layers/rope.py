"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its scalings: see `rope_config`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foundling.models.context import Context
from foundling.models.kernels import fused
from foundling.models.layers.rope_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeConfig,
    YarnScaling,
)


def rope_tables(config: RopeConfig, head_dim: int, ctx: Context, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of every token's position, (rows, time, 1, rotated dims) each; made once per pass."""

    def make() -> tuple[Tensor, Tensor]:
        angles = ctx.positions[..., None].float() * inverse_frequencies(config, head_dim, ctx.positions)
        cos, sin = angles.cos() * amplitude(config), angles.sin() * amplitude(config)
        if config.interleaved:
            tables = cos.repeat_interleave(2, -1), torch.stack((-sin, sin), -1).flatten(-2)
        else:
            tables = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return tables[0].unsqueeze(2).to(dtype), tables[1].unsqueeze(2).to(dtype)

    return ctx.once(("rope", config, head_dim, dtype), make)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn pairs of each head of x (rows, time, heads, d) by their angle; dims beyond the tables' are left alone.

    Pairs are (x_i, x_{i+d/2}), or neighbours if interleaved. Swapping the pairs by a roll, with the sign in the sine,
    takes three passes over memory instead of seven.
    """
    width = cos.shape[-1]
    if width < x.shape[-1]:
        rest = x[..., width:]
        return torch.cat((rotate(x[..., :width], cos, signed_sin, interleaved), rest), -1)
    fits = x.requires_grad and not interleaved and width % (2 * fused.LANES) == 0 and cos.shape[:2] == x.shape[:2]
    if fits and fused.suits(x, cos, signed_sin):
        return fused.turn_heads(x, cos, signed_sin)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if interleaved else x.roll(width // 2, -1)
    return torch.addcmul(x * cos, swapped, signed_sin)


def amplitude(config: RopeConfig) -> float:
    """The scale of cosines and sines."""
    return config.scaling.amplitude if isinstance(config.scaling, YarnScaling | LongRopeScaling) else 1.0


def inverse_frequencies(config: RopeConfig, head_dim: int, positions: Tensor) -> Tensor:
    """Radians per position of each pair, float32: (pairs,), or (rows, 1, pairs) if they depend on the row's length."""
    dim, scaling = int(head_dim * config.fraction), config.scaling
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.int64).float() / dim
    plain = 1.0 / config.theta**exponents
    match scaling:
        case None:
            return plain
        case LinearScaling():
            return plain / scaling.factor
        case Llama3Scaling():
            return _llama3(plain, scaling)
        case YarnScaling():
            return _yarn(config.theta**exponents, scaling, config.theta, dim)
    # The rest depend on the length of the sequence: each row's own, so that its neighbours in a batch do not matter.
    length = positions.amax(dim=1)[:, None, None] + 1  # (rows, 1, 1)
    if isinstance(scaling, DynamicScaling):
        stretch = scaling.factor * length.clamp_min(scaling.original) / scaling.original - (scaling.factor - 1)
        return 1.0 / (config.theta * stretch ** (dim / (dim - 2))) ** exponents
    short, long = (plain.new_tensor(factors) for factors in (scaling.short_factors, scaling.long_factors))
    return 1.0 / (torch.where(length > scaling.original, long, short) * config.theta**exponents)


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    turns = scaling.original * plain / (2 * math.pi)  # over the original context
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = ramp.clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(wavelengths: Tensor, scaling: YarnScaling, theta: float, dim: int) -> Tensor:
    def dimension(turns: float) -> float:
        return dim * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    pairs = torch.arange(dim // 2, dtype=torch.float32, device=wavelengths.device)
    divided = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    return divided / (scaling.factor * wavelengths) + (1 - divided) / wavelengths
