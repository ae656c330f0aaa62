"""Words of many texts as 64-bit hashes, computed over whole columns: what duplicates and decontamination compare.

A word is a run of ASCII letters and digits (case folded) or of non-ASCII bytes; in scripts written without spaces
(Chinese, Japanese, Korean) every character is a word. Punctuation separates words and is otherwise ignored, so that
layout and quoting do not hide a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundling.corpus.columns import Bytes, FlatText, Hashes, Ints, byte_class

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that powers of it are distinct modulo 2^64
_CHUNK_BYTES = 1 << 21
_WORD = byte_class("", (0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), (0x80, 0xFF))
_IDEOGRAPH_LEAD = byte_class("", (0xE3, 0xED))
_FOLD = np.arange(256, dtype=np.uint8)
_FOLD[0x41:0x5B] += 0x20


@dataclass(frozen=True)
class WordHashes:
    """Words of each text, in order.

    Attributes:
        hashes: (words,) uint64.
        offsets: (texts + 1,) int64; the words of text n are hashes[offsets[n]:offsets[n + 1]].
    """

    hashes: Hashes
    offsets: Ints

    def windows(self, n: int) -> tuple[Hashes, Ints]:
        """((windows,) hash of each run of `n` words inside one text, (windows,) number of its first word)."""
        if len(self.hashes) < n:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        count = len(self.hashes) - n + 1
        rolled = np.zeros(count, np.uint64)
        for k in range(n):
            rolled = rolled * _BASE + self.hashes[k : k + count]
        last = np.repeat(self.offsets[1:], np.diff(self.offsets))[:count]  # where each word's text ends
        inside = np.flatnonzero(np.arange(count) + n <= last)
        return mix(rolled[inside]), inside

    def shingles(self, n: int) -> WordHashes:
        """Runs of `n` words of each text; a shorter text is one shingle (its words), an empty one none."""
        hashes, starts = self.windows(n)
        counts = np.diff(np.searchsorted(starts, self.offsets))
        words = np.diff(self.offsets)
        short = np.flatnonzero((words > 0) & (words < n))
        if len(short):
            whole = np.array(
                [_fold_words(self.hashes[self.offsets[i] : self.offsets[i + 1]]) for i in short], np.uint64
            )
            hashes = np.insert(hashes, np.searchsorted(starts, self.offsets[short]), whole)
            counts[short] = 1
        return WordHashes(hashes, np.concatenate([[0], np.cumsum(counts)]))


def word_hashes(texts: FlatText) -> WordHashes:
    """Hash every word of every text."""
    parts: list[Hashes] = []
    counts: list[Ints] = []
    first = 0
    while first < len(texts):
        last = int(np.searchsorted(texts.offsets, texts.offsets[first] + _CHUNK_BYTES, side="right")) - 1
        last = max(last, first + 1)
        edges = texts.offsets[first : last + 1]
        hashes, starts = _hash_words(texts.data[edges[0] : edges[-1]], edges - edges[0])
        parts.append(hashes)
        counts.append(np.diff(np.searchsorted(starts, edges - edges[0])))
        first = last
    per_text = np.concatenate([np.zeros(1, np.int64), *counts])
    return WordHashes(np.concatenate([np.zeros(0, np.uint64), *parts]), np.cumsum(per_text))


def hash_text(text: str) -> Hashes:
    """(words,) the word hashes of one text."""
    data = np.frombuffer(text.encode(), np.uint8)
    return _hash_words(data, np.array([0, len(data)]))[0]


def mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): spreads polynomial hashes over all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash_words(data: Bytes, edges: Ints) -> tuple[Hashes, Ints]:
    """((words,) hashes, (words,) first byte of each): a polynomial in the word's bytes, modulo 2^64."""
    inside = _WORD[data]
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | _IDEOGRAPH_LEAD[data[1:]]
    at_edge = edges[:-1][edges[:-1] < len(data)]
    begins[at_edge] = inside[at_edge]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.zeros(0, np.uint64), starts
    positions = np.flatnonzero(inside)
    number = np.cumsum(begins)[positions] - 1
    place = positions - starts[number]
    terms = (_FOLD[data[positions]].astype(np.uint64) + np.uint64(1)) * powers(int(place.max()) + 1)[place]
    first_term = np.searchsorted(positions, starts)
    return mix(np.add.reduceat(terms, first_term)), starts


def powers(n: int) -> Hashes:
    """(n,) powers of the base of polynomial hashes, modulo 2^64."""
    out = np.full(n, _BASE, np.uint64)
    out[0] = 1
    return np.multiply.accumulate(out)


def _fold_words(words: Hashes) -> np.uint64:
    folded = words[-1:] * np.uint64(0)
    for k in range(len(words)):
        folded = folded * _BASE + words[k : k + 1]
    return np.uint64(mix(folded)[0])
