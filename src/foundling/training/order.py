"""A random permutation whose n-th entry is computed directly: data order without iterator state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundling.core.rng import numpy_rng

ROUNDS = 6


class Permutation:
    """A pseudo-random permutation of range(size) in constant memory.

    A Feistel network over the smallest even number of bits that holds `size`, with cycle walking for what falls
    outside (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """

    def __init__(self, size: int, *seed: object) -> None:
        assert size > 0
        self.size = size
        self.half = max(1, ((size - 1).bit_length() + 1) // 2)
        self.keys = numpy_rng("permutation", *seed).integers(0, 2**63, size=ROUNDS, dtype=np.uint64)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the given positions land; (n,) -> (n,), distinct for distinct positions."""
        values = self._encrypt(np.asarray(index).astype(np.uint64))
        outside = values >= self.size
        while outside.any():
            values[outside] = self._encrypt(values[outside])
            outside = values >= self.size
        return values.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mask = np.uint64((1 << self.half) - 1)
        left, right = values >> np.uint64(self.half), values & mask
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << np.uint64(self.half)) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
