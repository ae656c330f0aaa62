"""Finds evaluation items in training text: 13-gram overlap (Brown et al. 2020, appendix C), short items exactly, and
long ones also when some of their words were changed.

Both sides are compared as words (see `words`), so layout, case and punctuation do not hide a leak.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.words import WordHashes, hash_text

NGRAM = 13
MIN_WORDS = 4  # an item shorter than this occurs by chance in any large text
FUZZY_NGRAM = 4
FUZZY_SHARE = 0.55  # of an item's 4-grams in their order: what is left when a word in thirteen is another one
_SLACK = 8  # words by which insertions may shift the parts of a match
_TOO_COMMON = 50  # a 4-gram in more places than this ("which of the following") says nothing
_SIEVE = 1 << 22


class HeldOut:
    """The n-grams of a set of evaluation items.

    Args:
        items: prompts, questions, reference texts. Those under `MIN_WORDS` words are ignored and counted in `ignored`.
    """

    def __init__(self, items: Sequence[str]) -> None:
        by_length: dict[int, list[tuple[int, Hashes]]] = {}
        self.items = list(items)
        self.ignored = 0
        long: list[tuple[int, Hashes]] = []
        for number, item in enumerate(self.items):
            words = hash_text(item)
            if len(words) < MIN_WORDS:
                self.ignored += 1
                continue
            length = min(NGRAM, len(words))
            by_length.setdefault(length, []).append((number, _grams(words, length)))
            if len(words) >= NGRAM:
                long.append((number, _grams(words, FUZZY_NGRAM)))
        self._exact = {n: _Table(by_length[n]) for n in sorted(by_length)}
        self._fuzzy = _Table(long) if long else None
        self._sizes = np.zeros(len(self.items), np.int64)
        for number, grams in long:
            self._sizes[number] = len(grams)

    def matches(self, words: WordHashes) -> tuple[Ints, Ints]:
        """((texts,) item that each text holds, -1 if none; (texts,) the number of the first matching word)."""
        count = len(words.offsets) - 1
        found, where = np.full(count, -1), np.full(count, -1)
        for length, table in self._exact.items():
            hashes, starts = words.windows(length)
            hits, first, _ = table.find(hashes)
            _record(found, where, words, starts[hits], table.items[first])
        if self._fuzzy is not None:
            items, positions = self._changed_copies(self._fuzzy, words)
            _record(found, where, words, positions, items)
        return found, where

    def _changed_copies(self, table: _Table, words: WordHashes) -> tuple[Ints, Ints]:
        """((matches,) item, (matches,) first word): places where most of an item's 4-grams stand in its order.

        Each shared 4-gram votes for the place where the item would begin; a place with enough votes is a copy.
        """
        hashes, starts = words.windows(FUZZY_NGRAM)
        hits, first, last = table.find(hashes)
        rare = last - first <= _TOO_COMMON
        hits, first, last = hits[rare], first[rare], last[rare]
        spread = last - first
        entry = np.repeat(first - (np.cumsum(spread) - spread), spread) + np.arange(spread.sum())
        text_word, item = np.repeat(starts[hits], spread), table.items[entry]
        begin = text_word - table.positions[entry] + _SLACK * 4  # not negative
        found: list[tuple[Ints, Ints]] = []
        for shift in (0, _SLACK // 2):
            owner = np.searchsorted(words.offsets, text_word, side="right") - 1
            votes = np.stack([owner, item, (begin + shift) // _SLACK], axis=1)
            places, index, count = np.unique(votes, axis=0, return_index=True, return_counts=True)
            enough = count >= FUZZY_SHARE * self._sizes[places[:, 1]]
            found.append((places[enough, 1], text_word[index[enough]]))
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


class _Table:
    """N-grams in sorted order with the item and the position that each comes from."""

    def __init__(self, grams: list[tuple[int, Hashes]]) -> None:
        hashes = np.concatenate([h for _, h in grams])
        order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[order]
        self.items = np.concatenate([np.full(len(h), number) for number, h in grams])[order]
        self.positions = np.concatenate([np.arange(len(h)) for _, h in grams])[order]
        self._maybe = np.zeros(_SIEVE, bool)
        self._maybe[hashes & np.uint64(_SIEVE - 1)] = True

    def find(self, hashes: Hashes) -> tuple[Ints, Ints, Ints]:
        """((hits,) positions in `hashes`, (hits,) first entry, (hits,) one after the last entry)."""
        candidates = np.flatnonzero(self._maybe[hashes & np.uint64(_SIEVE - 1)])
        first = np.searchsorted(self.hashes, hashes[candidates])
        last = np.searchsorted(self.hashes, hashes[candidates], side="right")
        real = last > first
        return candidates[real], first[real], last[real]


def _grams(words: Hashes, length: int) -> Hashes:
    return WordHashes(words, np.array([0, len(words)])).windows(length)[0]


def _record(found: Ints, where: Ints, words: WordHashes, positions: Ints, items: Ints) -> None:
    """Note the first match of each text that has none yet."""
    order = np.argsort(positions, kind="stable")
    positions, items = positions[order], items[order]
    text = np.searchsorted(words.offsets, positions, side="right") - 1
    first = np.unique(text, return_index=True)[1]
    first = first[found[text[first]] < 0]
    found[text[first]] = items[first]
    where[text[first]] = positions[first] - words.offsets[text[first]]
