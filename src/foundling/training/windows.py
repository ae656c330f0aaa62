"""Random windows of a token stream, the n-th of which is computed directly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.training.order import Permutation
from foundling.training.token_files import TokenSplit

Numbers = NDArray[np.int64]


class Windows:
    """The stream cut into windows of `length` tokens, visited in random order, every epoch cut at another offset.

    Args:
        extra: tokens beyond the window that must exist (1 for the last target).
    """

    def __init__(self, split: TokenSplit, length: int, seed: int, extra: int = 0) -> None:
        if len(split.stream) < 2 * length + extra:
            what = f"the {split.name} split holds {len(split.stream)} tokens, too few for a context of {length}"
            raise FoundlingError(
                what, f"at least {2 * length + extra} are needed", "Use more text or a smaller context"
            )
        self.split, self.length, self.seed = split, length, seed
        self.count = (len(split.stream) - extra - length) // length  # leaves room for an offset below one window

    def starts(self, numbers: Numbers) -> Numbers:
        """(n,) window numbers of the endless sequence of epochs -> (n,) their offsets in the stream."""
        out = np.empty_like(numbers)
        for epoch in np.unique(numbers // self.count):
            chosen = numbers // self.count == epoch
            offset = seed_for(self.seed, "offset", epoch) % self.length
            order = Permutation(self.count, self.seed, "order", epoch)
            out[chosen] = order[numbers[chosen] % self.count] * self.length + offset
        return out

    def of_step(self, step: int, rows: int) -> Numbers:
        """(rows,) offsets of the windows of a step."""
        return self.starts(np.arange(step * rows, (step + 1) * rows, dtype=np.int64))

    def read(self, starts: Numbers, length: int) -> Numbers:
        """(rows, length) tokens from each offset on."""
        return np.stack([self.split.window(int(start), length) for start in starts])

    def names(self, starts: Numbers) -> list[str]:
        """The documents of each window, for messages."""
        return [self.split.name_of(int(start), self.length) for start in starts]
