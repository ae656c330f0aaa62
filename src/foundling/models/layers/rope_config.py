"""Rotary positions and their published scalings to longer contexts, as data. Nothing here imports torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from foundling.core.config import Config, option


class LinearScaling(Config):
    """Position interpolation: all angles divided by a factor (Chen et al. 2023, arXiv:2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: float = option(help="how many times longer", gt=0)


class DynamicScaling(Config):
    """NTK-aware scaling that grows with the sequence: the base is raised once it is longer than `original`."""

    kind: Literal["dynamic"] = "dynamic"
    factor: float = option(help="how many times longer", gt=0)
    original: int = option(help="context of pretraining", gt=1)


class Llama3Scaling(Config):
    """Llama 3.1's: long wavelengths divided by the factor, short ones kept, a ramp between (arXiv:2407.21783)."""

    kind: Literal["llama3"] = "llama3"
    factor: float = option(help="how many times longer", gt=0)
    low_freq_factor: float = option(1.0, "wavelengths above original / this are divided", gt=0)
    high_freq_factor: float = option(4.0, "wavelengths below original / this are kept", gt=0)
    original: int = option(help="context of pretraining", gt=1)


class YarnScaling(Config):
    """YaRN: a ramp over frequencies, and a temperature on the attention (Peng et al. 2023, arXiv:2309.00071)."""

    kind: Literal["yarn"] = "yarn"
    factor: float = option(help="how many times longer", gt=0)
    original: int = option(help="context of pretraining", gt=1)
    beta_fast: float = option(32.0, "turns over the original context above which an angle is kept", gt=0)
    beta_slow: float = option(1.0, "turns below which an angle is divided by the factor", gt=0)
    truncate: bool = option(True, "round the ramp's ends to whole dimensions")
    attention_factor: float | None = option(None, "scale of cosines and sines; null: from the factor")
    mscale: float | None = option(None, "numerator's weight in the attention factor (DeepSeek)")
    mscale_all_dim: float | None = option(None, "denominator's, and the scale of all attention logits (DeepSeek)")

    @property
    def amplitude(self) -> float:
        """The scale of cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_mscale(self.factor, self.mscale) / yarn_mscale(self.factor, self.mscale_all_dim)
        return yarn_mscale(self.factor)


class LongRopeScaling(Config):
    """LongRoPE: a searched divisor per dimension, one set up to `original` tokens and one beyond (arXiv:2402.13753)."""

    kind: Literal["longrope"] = "longrope"
    short_factors: tuple[float, ...] = option(help="divisors of sequences up to `original`")
    long_factors: tuple[float, ...] = option(help="divisors of longer ones")
    original: int = option(help="context of pretraining", gt=1)
    amplitude: float = option(1.0, "scale of cosines and sines", gt=0)


RopeScaling = Annotated[
    LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling, Field(discriminator="kind")
]


class RopeConfig(Config):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

    theta: float = option(10000.0, "base of the wavelengths", gt=0)
    fraction: float = option(1.0, "part of each head that is rotated", gt=0, le=1)
    interleaved: bool = option(False, "pairs are neighbours instead of half a head apart")
    scaling: RopeScaling | None = option(None, "scaling to longer contexts")


def yarn_mscale(factor: float, weight: float = 1.0) -> float:
    """YaRN's temperature: 0.1 weight ln(factor) + 1, and 1 for factors up to 1."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
