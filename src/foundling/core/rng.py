"""Randomness as a pure function of names: the same parts give the same stream on any machine, in any order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_for(*parts: object) -> int:
    """A stable seed in [0, 2^63) from the parts' text, such as `seed_for(config.seed, "batch", step)`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_rng(*parts: object) -> np.random.Generator:
    """A NumPy generator (PCG64) seeded by the parts."""
    return np.random.Generator(np.random.PCG64(seed_for(*parts)))


def torch_generator(*parts: object, device: str = "cpu") -> torch.Generator:
    """A torch generator seeded by the parts."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_for(*parts))
