"""A column of texts as one flat byte array, for counts and hashes that touch every byte once, without a Python loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class FlatText:
    """Texts one after another in UTF-8.

    Attributes:
        data: (bytes,) uint8.
        offsets: (texts + 1,) int64; text n is data[offsets[n]:offsets[n + 1]].
    """

    data: Bytes
    offsets: Ints

    @classmethod
    def of(cls, texts: pl.Series) -> FlatText:
        """The flat form of a column without nulls."""
        array = texts.to_arrow().cast(pa.large_string())
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        _, offsets, data = array.buffers()
        edges = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        flat = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
        return cls(flat[edges[0] : edges[-1]], edges - edges[0])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """(texts,) bytes of each text."""
        return np.diff(self.offsets)

    def count(self, table: NDArray[np.bool_]) -> Ints:
        """(texts,) how many bytes of each text are in the class `table`, a (256,) bool array."""
        return self.sums(table[self.data])

    def sums(self, per_byte: NDArray[np.bool_]) -> Ints:
        """(texts,) sum over each text of a (bytes,) array."""
        running = np.zeros(len(per_byte) + 1, np.int64)
        np.cumsum(per_byte, out=running[1:])
        return running[self.offsets[1:]] - running[self.offsets[:-1]]


def byte_class(characters: str = "", *ranges: tuple[int, int]) -> NDArray[np.bool_]:
    """(256,) bool: the given ASCII characters and the byte ranges [first, last]."""
    table = np.zeros(256, bool)
    table[np.frombuffer(characters.encode("ascii"), np.uint8)] = True
    for first, last in ranges:
        table[first : last + 1] = True
    return table


CONTINUATION = byte_class("", (0x80, 0xBF))
# The lead byte of a character that is not ASCII counts as a letter: scripts, not symbols, dominate there.
LETTERS = byte_class("", (0x41, 0x5A), (0x61, 0x7A), (0xC3, 0xF4))


def characters(texts: FlatText) -> Ints:
    """(texts,) Unicode characters of each text."""
    return texts.lengths - texts.count(CONTINUATION)


def lines(texts: FlatText) -> tuple[Ints, Ints]:
    """((texts,) number of lines, (texts,) bytes of the longest line) of each text."""
    breaks = np.flatnonzero(texts.data == 0x0A)
    per_text = np.diff(np.searchsorted(breaks, texts.offsets))
    edges = np.unique(np.concatenate([texts.offsets, breaks + 1]))
    longest = np.zeros(len(texts), np.int64)
    if len(edges) > 1:
        owner = np.searchsorted(texts.offsets, edges[:-1], side="right") - 1
        np.maximum.at(longest, owner, np.diff(edges))
    ends_open = texts.lengths > 0
    ends_open[ends_open] = texts.data[texts.offsets[1:][ends_open] - 1] != 0x0A
    return per_text + ends_open, longest
