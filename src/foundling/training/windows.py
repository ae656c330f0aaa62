"""Rows of a token stream in random order, the n-th computed directly: windows of it, or whole documents packed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.tokenization.packing import Packing, best_fit, concatenate
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
        padding: share of the rows' tokens that is padding.
    """

    padding = 0.0

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
            self._parts.append(_Part(round(row), start, self._cut(start, tokens, extra)))
            row, start = row + share * split.planned_rows, start + tokens
        self.count = sum(part.count for part in self._parts)

    @property
    def split_documents(self) -> int:
        """Documents that do not lie whole in one row."""
        return concatenate(np.diff(self.split.starts), self.length).cut

    def _cut(self, start: int, tokens: int, extra: int) -> int:
        """The windows of a part of the stream; they leave room for an offset below one window."""
        return (tokens - extra - self.length) // self.length

    def starts(self, numbers: Numbers) -> Numbers:
        """(n,) window numbers of the endless sequence of epochs -> (n,) their offsets in the stream."""
        out = np.empty_like(numbers)
        owner = np.searchsorted([part.first_row for part in self._parts], numbers, side="right") - 1
        for index, part in enumerate(self._parts):
            here = owner == index
            out[here] = self._within(part, numbers[here] - part.first_row, index)
        return out

    def _within(self, part: _Part, numbers: Numbers, index: int) -> Numbers:
        out = np.empty_like(numbers)
        name = (f"phase {index}",) if index else ()
        for epoch in np.unique(numbers // part.count):
            chosen = numbers // part.count == epoch
            offset = seed_for(self.seed, "offset", epoch, *name) % self.length
            order = Permutation(part.count, self.seed, "order", epoch, *name)
            out[chosen] = part.start + order[numbers[chosen] % part.count] * self.length + offset
        return out

    def of_step(self, step: int, rows: int) -> Numbers:
        """(rows,) offsets of the windows of a step."""
        return self.starts(np.arange(step * rows, (step + 1) * rows, dtype=np.int64))

    def positions(self, starts: Numbers) -> Numbers:
        """(rows, length) where in the stream each token of the rows stands; -1 is padding."""
        return starts[:, None] + np.arange(self.length)

    def read(self, starts: Numbers, length: int) -> Numbers:
        """(rows, length) tokens from each offset on."""
        return np.stack([self.split.window(int(start), length) for start in starts])

    def names(self, starts: Numbers) -> list[str]:
        """The documents of each window, for messages."""
        return [self.split.name_of(int(start), self.length) for start in starts]


class PackedDocuments(Windows):
    """Rows of whole documents, packed by best fit; only one longer than a row is split. A row's start is its number."""

    def __init__(self, split: TokenSplit, length: int, seed: int) -> None:
        self._packings: list[tuple[int, Packing]] = []  # (first document, how it and those after it are packed)
        super().__init__(split, length, seed)
        self.padding = sum(packing.padding for _, packing in self._packings) / (self.count * length)

    @property
    def split_documents(self) -> int:
        """Documents that are longer than a row."""
        return sum(packing.cut for _, packing in self._packings)

    def _cut(self, start: int, tokens: int, extra: int) -> int:
        first, last = np.searchsorted(self.split.starts, [start, start + tokens])
        packing = best_fit(np.diff(self.split.starts[first : last + 1]), self.length)
        self._packings.append((int(first), packing))
        return packing.rows

    def _within(self, part: _Part, numbers: Numbers, index: int) -> Numbers:
        before = sum(earlier.count for earlier in self._parts[:index])
        out = np.empty_like(numbers)
        for epoch in np.unique(numbers // part.count):
            chosen = numbers // part.count == epoch
            order = Permutation(part.count, self.seed, "order", epoch, "packed", index)
            out[chosen] = before + order[numbers[chosen] % part.count]
        return out

    def positions(self, starts: Numbers) -> Numbers:
        """(rows, length) where in the stream each token of the rows stands; -1 is padding."""
        out = np.full((len(starts), self.length), -1, np.int64)
        for row, number in enumerate(starts):
            begins, lengths = self._pieces(int(number))
            filled = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
            out[row, : len(filled)] = filled
        return out

    def names(self, starts: Numbers) -> list[str]:
        """The documents of each row, for messages."""
        return [self._name(int(number)) for number in starts]

    def _name(self, number: int) -> str:
        documents = self.split.documents_of(self._pieces(number)[0]).tolist()
        return f"{self.split.name} document{'s' * (len(documents) > 1)} {', '.join(map(str, documents))}"

    def _pieces(self, number: int) -> tuple[Numbers, Numbers]:
        """(pieces,) where in the stream the row's pieces begin, and (pieces,) their lengths."""
        for first, packing in self._packings:
            if number < packing.rows:
                low, high = np.searchsorted(packing.row, [number, number + 1])
                starts = self.split.starts[first + packing.document[low:high]] + packing.start[low:high]
                return starts, packing.length[low:high]
            number -= packing.rows
        raise IndexError(f"row {number} beyond the last")
