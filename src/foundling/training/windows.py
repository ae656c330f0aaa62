"""Random windows of a token stream, the n-th of which is computed directly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.training.order import Permutation
from foundling.training.token_files import TokenSplit

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """A part of the stream and the rows that are drawn from it: all rows from `first_row` to the next part's."""

    first_row: int
    start: int
    count: int  # windows


class Windows:
    """The stream cut into windows of `length` tokens, visited in random order, every epoch cut at another offset.

    With a curriculum each phase is such a stream of its own, for its share of the planned rows.

    Args:
        extra: tokens beyond the window that must exist (1 for the last target).

    Attributes:
        count: windows of one epoch, over all phases.
    """

    def __init__(self, split: TokenSplit, length: int, seed: int, extra: int = 0) -> None:
        self.split, self.length, self.seed = split, length, seed
        self._parts: list[_Part] = []
        row, start = 0.0, 0
        for number, (share, tokens) in enumerate(split.phases or [(1.0, len(split.stream))], 1):
            if tokens < 2 * length + extra:
                part = f"phase {number} of the {split.name} split" if split.phases else f"the {split.name} split"
                what = f"{part} holds {tokens} tokens, too few for a context of {length}"
                raise FoundlingError(
                    what, f"at least {2 * length + extra} are needed", "Use more text or a smaller context"
                )
            count = (tokens - extra - length) // length  # leaves room for an offset below one window
            self._parts.append(_Part(round(row), start, count))
            row, start = row + share * split.planned_rows, start + tokens
        self.count = sum(part.count for part in self._parts)

    def starts(self, numbers: Numbers) -> Numbers:
        """(n,) window numbers of the endless sequence of epochs -> (n,) their offsets in the stream."""
        out = np.empty_like(numbers)
        owner = np.searchsorted([part.first_row for part in self._parts], numbers, side="right") - 1
        for index, part in enumerate(self._parts):
            here = owner == index
            out[here] = part.start + self._within(part, numbers[here] - part.first_row, index)
        return out

    def _within(self, part: _Part, numbers: Numbers, index: int) -> Numbers:
        out = np.empty_like(numbers)
        name = (f"phase {index}",) if index else ()
        for epoch in np.unique(numbers // part.count):
            chosen = numbers // part.count == epoch
            offset = seed_for(self.seed, "offset", epoch, *name) % self.length
            order = Permutation(part.count, self.seed, "order", epoch, *name)
            out[chosen] = order[numbers[chosen] % part.count] * self.length + offset
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
