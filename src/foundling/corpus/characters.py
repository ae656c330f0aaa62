"""Batches of texts as arrays of characters, with the spans (lines, paragraphs, words) that quality rules count.

One class code for each character, looked up once, turns "does this word hold a letter" into sums over an array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foundling.corpus.columns import Hashes, Ints

Codes = NDArray[np.uint32]
Flags = NDArray[np.uint8]
BATCH_CHARACTERS = 1_000_000

ALPHA, SPACE, PUNCTUATION, TERMINAL, WORD, LINE_BREAK, IDEOGRAPH, UPPER = (1 << n for n in range(8))
# Unicode's Sentence_Terminal characters, as FineWeb-2 lists them.
_TERMINAL = """21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736
17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d
2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1
abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143
111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642
1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38
16b44 16e98 1bc9f 1da88"""
# What `datatrove` calls punctuation besides those: a word made only of these does not count as a word.
_PUNCTUATION = "\"#$%&'()*+,-/:;<=>@[\\]^_`{|}~«´»–—’“”„…∶━►、〈〉《》「」【】％（），１：；～"
_CONTROL = (*range(9), *range(11, 32), *range(127, 160))
_LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # what `str.splitlines` splits at
_IDEOGRAPHS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))


@dataclass(frozen=True)
class Spans:
    """Pieces of the texts of a batch.

    Attributes:
        starts, ends: (spans,) int64 character positions in the batch.
        offsets: (texts + 1,) int64; the spans of text n are numbers offsets[n] to offsets[n + 1].
    """

    starts: Ints
    ends: Ints
    offsets: Ints

    @property
    def lengths(self) -> Ints:
        """(spans,) characters."""
        return self.ends - self.starts

    @property
    def counts(self) -> Ints:
        """(texts,) spans of each text."""
        return np.diff(self.offsets)

    @cached_property
    def owners(self) -> Ints:
        """(spans,) the text that each span belongs to."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def per_text(self, values: NDArray) -> Ints:  # type: ignore[type-arg]
        """(texts,) sum of a (spans,) array over each text's spans."""
        running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return running[self.offsets[1:]] - running[self.offsets[:-1]]


class Batch:
    """Texts as one array of characters.

    Attributes:
        codes: (characters,) uint32 code points of all texts, one after another.
        offsets: (texts + 1,) int64.
        flags: (characters,) uint8, the classes of each character (ALPHA, SPACE, ...).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.codes: Codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        self.offsets: Ints = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        self.flags: Flags = _class_table()[self.codes]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> Ints:
        """(texts,) characters."""
        return np.diff(self.offsets)

    def has(self, flag: int) -> NDArray[np.bool_]:
        """(characters,) whether each is of the class."""
        return (self.flags & flag) != 0

    def per_text(self, per_character: NDArray[np.bool_]) -> Ints:
        """(texts,) how many characters of each text are marked."""
        return self.within(per_character, self.offsets[:-1], self.offsets[1:])

    def within(self, per_character: NDArray[np.bool_], starts: Ints, ends: Ints) -> Ints:
        """(spans,) how many characters of each span are marked."""
        running = np.zeros(len(self.codes) + 1, np.int64)
        np.cumsum(per_character, out=running[1:])
        return running[ends] - running[starts]

    def count(self, literal: str) -> Ints:
        """(texts,) non-overlapping occurrences of a string, as `str.count`."""
        return np.array([text.count(literal) for text in self.texts], np.int64)

    @cached_property
    def lines(self) -> Spans:
        """Lines as `str.splitlines` gives them: any Unicode line break ends one, a final break starts none."""
        breaks = self.has(LINE_BREAK)
        breaks[:-1] &= ~((self.codes[:-1] == 0x0D) & (self.codes[1:] == 0x0A))  # "\r\n" is one break, at its "\n"
        ends = np.flatnonzero(breaks)
        spans = self._between(ends, ends + 1, keep_last_empty=False)
        returned = (spans.ends > spans.starts) & (self._at(spans.ends - 1) == 0x0D) & (self._at(spans.ends) == 0x0A)
        return Spans(spans.starts, spans.ends - returned, spans.offsets)

    def split(self, least: int) -> Spans:
        """Pieces between runs of at least `least` newlines, as `re.split("\\n{least,}", text)`: empty ones too."""
        newline = self.codes == 0x0A
        newline_start = newline.copy()
        newline_start[1:] &= ~newline[:-1]
        inner = self.offsets[1:-1]
        at_edge = inner[inner < len(self.codes)]
        newline_start[at_edge] = newline[at_edge]
        starts = np.flatnonzero(newline_start)
        bounds = np.flatnonzero(np.concatenate([~newline, [True]]))
        ends = np.minimum(bounds[np.searchsorted(bounds, starts)], self._text_end(starts))
        wide = ends - starts >= least
        return self._between(starts[wide], ends[wide], keep_last_empty=True)

    def hashes(self, spans: Spans) -> Hashes:
        """(spans,) uint64 hash of each span's characters: equal text, equal hash."""
        powers = _powers(len(self.codes))
        running = np.zeros(len(self.codes) + 1, np.uint64)
        np.cumsum((self.codes.astype(np.uint64) + np.uint64(1)) * powers[0][: len(self.codes)], out=running[1:])
        return (running[spans.ends] - running[spans.starts]) * powers[1][spans.starts] ^ spans.lengths.astype(np.uint64)

    def strip(self, spans: Spans) -> Spans:
        """The spans without white space at both ends; one of white space only becomes empty."""
        solid = np.flatnonzero(~self.has(SPACE))
        if not len(solid):
            return Spans(spans.starts, spans.starts, spans.offsets)
        first = solid[np.minimum(np.searchsorted(solid, spans.starts), len(solid) - 1)]
        last = solid[np.maximum(np.searchsorted(solid, spans.ends) - 1, 0)] + 1
        blank = (first >= spans.ends) | (first < spans.starts) | (last <= spans.starts)
        starts = np.where(blank, spans.starts, first)
        return Spans(starts, np.where(blank, spans.starts, last), spans.offsets)

    def _at(self, positions: Ints) -> Codes:
        """Characters at positions; a position outside the batch gives 0."""
        inside = (positions >= 0) & (positions < len(self.codes))
        return np.where(inside, self.codes[np.where(inside, positions, 0)] if len(self.codes) else 0, 0)

    def _text_end(self, positions: Ints) -> Ints:
        return self.offsets[np.searchsorted(self.offsets, positions, side="right")]

    def _between(self, gap_starts: Ints, gap_ends: Ints, *, keep_last_empty: bool) -> Spans:
        """The pieces of each text around the gaps."""
        starts = np.sort(np.concatenate([self.offsets[:-1], gap_ends]), kind="stable")
        owner = np.concatenate([np.arange(len(self)), np.searchsorted(self.offsets, gap_starts, side="right") - 1])
        order = np.lexsort((np.concatenate([self.offsets[:-1], gap_ends]), owner))
        starts = np.concatenate([self.offsets[:-1], gap_ends])[order]
        owner = owner[order]
        last = np.concatenate([owner[1:] != owner[:-1], [True]]) if len(owner) else np.zeros(0, bool)
        ends = np.empty_like(starts)
        ends[~last] = gap_starts
        ends[last] = self.offsets[1:]
        if not keep_last_empty:
            keep = ~(last & (starts == ends))
            starts, ends, owner = starts[keep], ends[keep], owner[keep]
        return Spans(starts, ends, np.searchsorted(owner, np.arange(len(self) + 1)))


def batches(texts: pl.Series) -> Iterator[tuple[int, Batch]]:
    """(number of the first text, batch) pairs of about a million characters: small enough for the processor's cache."""
    lengths = texts.str.len_chars().to_numpy()
    edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    first = 0
    while first < len(texts):
        last = max(int(np.searchsorted(edges, edges[first] + BATCH_CHARACTERS, side="right")) - 1, first + 1)
        yield first, Batch(texts[first:last].to_list())
        first = last


@lru_cache(maxsize=1)
def _class_table() -> Flags:
    """(0x110000,) uint8 classes of every code point."""
    table = np.zeros(0x110000, np.uint8)
    every = [chr(code) for code in range(0x32400)]
    table[: len(every)] |= np.fromiter(map(str.isalpha, every), bool, len(every)).astype(np.uint8) * np.uint8(ALPHA)
    table[: len(every)] |= np.fromiter(map(str.isspace, every), bool, len(every)).astype(np.uint8) * np.uint8(SPACE)
    table[: len(every)] |= np.fromiter(map(str.isalnum, every), bool, len(every)).astype(np.uint8) * np.uint8(WORD)
    table[: len(every)] |= np.fromiter(map(str.isupper, every), bool, len(every)).astype(np.uint8) * np.uint8(UPPER)
    for part in _TERMINAL.split():
        first, _, last = part.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] |= TERMINAL | PUNCTUATION
    table[[*_CONTROL, *map(ord, _PUNCTUATION)]] |= PUNCTUATION
    table[list(map(ord, _LINE_BREAKS))] |= LINE_BREAK
    for low, high in _IDEOGRAPHS:
        table[low : high + 1] |= IDEOGRAPH
    for low, high in ((0x300, 0x36F), (0x900, 0x1CFF), (0x200C, 0x200D), (0xFE00, 0xFE0F)):
        marks = table[low : high + 1]  # vowel signs and joiners are parts of words though `isalnum` denies it
        marks[(marks & (SPACE | PUNCTUATION | WORD)) == 0] |= WORD
    return table


_power_tables: tuple[Hashes, Hashes] = (np.ones(1, np.uint64), np.ones(1, np.uint64))


def _powers(n: int) -> tuple[Hashes, Hashes]:
    """Powers of the base and of its inverse modulo 2^64, at least `n` + 1 of each."""
    global _power_tables
    if len(_power_tables[0]) <= n:
        size = max(n + 1, BATCH_CHARACTERS + 1)
        tables = []
        for base in (_BASE, _INVERSE):
            powers = np.full(size, base, np.uint64)
            powers[0] = 1
            tables.append(np.multiply.accumulate(powers))
        _power_tables = (tables[0], tables[1])
    return _power_tables
