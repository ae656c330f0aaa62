"""Packing documents into rows of a fixed length, by best fit: few documents are cut, and every lost token is counted.

Concatenating and cutting a stream wastes nothing but splits documents at every row's
end. Best-fit-decreasing (Ding et al. 2024, "Fewer truncations improve language modeling") keeps documents whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """Which pieces of documents share a row.

    Attributes:
        row: (pieces,) the row of each piece; rows count from 0, pieces of a row keep the order of this array.
        document, start, length: (pieces,) the piece: tokens [start, start + length) of a document.
        rows: number of rows.
        padding: tokens of padding over all rows.
        cut: documents that did not fit into one row and were split; nothing is dropped.
    """

    row: Ints
    document: Ints
    start: Ints
    length: Ints
    rows: int
    padding: int
    cut: int

    def segments(self, row: int) -> list[tuple[int, int, int]]:
        """(document, start, length) of a row's pieces."""
        here = np.flatnonzero(self.row == row)
        return [(int(self.document[i]), int(self.start[i]), int(self.length[i])) for i in here]


def best_fit(lengths: Ints, capacity: int) -> Packing:
    """Pack documents of the given lengths into rows of `capacity` tokens.

    Documents longer than a row are split into full rows and a rest. Pieces go, longest first, into the fullest row
    that still takes them; of equal ones the earlier document goes first, so the result depends on nothing else.
    """
    assert capacity > 0
    document, start, length = _pieces(np.asarray(lengths, np.int64), capacity)
    order = np.lexsort((document, -length))
    row = np.zeros(len(length), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by free tokens
    fits = _Fits(capacity)
    rows = 0
    for piece in order.tolist():
        size = int(length[piece])
        free = fits.smallest_from(size)
        if free is None:
            number, free = rows, capacity
            rows += 1
        else:
            number = open_rows[free].pop()
            if not open_rows[free]:
                fits.remove(free)
        row[piece] = number
        if free > size:
            open_rows[free - size].append(number)
            fits.add(free - size)
    by_row = np.lexsort((document, row))
    padding = rows * capacity - int(length.sum())
    cut = int((np.asarray(lengths) > capacity).sum())
    return Packing(row[by_row], document[by_row], start[by_row], length[by_row], rows, padding, cut)


def concatenate(lengths: Ints, capacity: int) -> Packing:
    """Pack by cutting the stream of all documents into rows; what is left at the end is the last, padded row."""
    ends = np.cumsum(np.asarray(lengths, np.int64))
    begins = ends - lengths
    total = int(ends[-1]) if len(ends) else 0
    rows = -(-total // capacity)
    cuts = np.unique(np.concatenate([begins, ends, np.arange(0, total, capacity)]))
    first, last = cuts[:-1], cuts[1:]
    document = np.searchsorted(ends, first, side="right")
    keep = last > first
    row = first // capacity
    split = np.bincount(document[keep], minlength=len(begins)) > 1
    return Packing(
        row[keep], document[keep], (first - begins[document])[keep], (last - first)[keep], rows,
        rows * capacity - total, int(split.sum()),
    )  # fmt: skip


class _Fits:
    """The set of free sizes for which a row is open, with "the smallest that is at least n" in O(log capacity)."""

    def __init__(self, capacity: int) -> None:
        self.width = 1 << capacity.bit_length()
        self.tree = np.zeros(2 * self.width, bool)

    def add(self, size: int) -> None:
        node = size + self.width
        while node and not self.tree[node]:
            self.tree[node] = True
            node //= 2

    def remove(self, size: int) -> None:
        node = size + self.width
        self.tree[node] = False
        while node > 1:
            node //= 2
            if self.tree[2 * node] or self.tree[2 * node + 1]:
                return
            self.tree[node] = False

    def smallest_from(self, size: int) -> int | None:
        node = size + self.width
        if self.tree[node]:
            return size
        while node > 1:
            if node % 2 == 0 and self.tree[node + 1]:
                node += 1
                while node < self.width:
                    node = 2 * node if self.tree[2 * node] else 2 * node + 1
                return node - self.width
            node //= 2
        return None


def _pieces(lengths: Ints, capacity: int) -> tuple[Ints, Ints, Ints]:
    counts = -(-lengths // capacity)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * capacity
    return document, start, np.minimum(lengths[document] - start, capacity)
