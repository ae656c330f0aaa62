"""Finds evaluation items in training text: 13-gram overlap (Brown et al. 2020, appendix C), short items exactly.

Both sides are compared as words (see `words`), so layout, case and punctuation do not hide a leak.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.words import WordHashes, hash_text

NGRAM = 13
MIN_WORDS = 4  # an item shorter than this occurs by chance in any large text


class HeldOut:
    """The n-grams of a set of evaluation items.

    Args:
        items: prompts, questions, reference texts. Those under `MIN_WORDS` words are ignored and counted in `ignored`.
    """

    def __init__(self, items: Sequence[str]) -> None:
        by_length: dict[int, list[Hashes]] = {}
        owners: dict[int, list[Ints]] = {}
        self.items = list(items)
        self.ignored = 0
        for number, item in enumerate(self.items):
            words = hash_text(item)
            if len(words) < MIN_WORDS:
                self.ignored += 1
                continue
            length = min(NGRAM, len(words))
            grams = WordHashes(words, np.array([0, len(words)])).windows(length)[0]
            by_length.setdefault(length, []).append(grams)
            owners.setdefault(length, []).append(np.full(len(grams), number))
        self._tables = {n: _sorted_table(by_length[n], owners[n]) for n in sorted(by_length)}

    def matches(self, words: WordHashes) -> tuple[Ints, Ints]:
        """((texts,) item that each text holds, -1 if none; (texts,) the number of the first matching word)."""
        count = len(words.offsets) - 1
        found, where = np.full(count, -1), np.full(count, -1)
        for length, (grams, owners) in self._tables.items():
            hashes, starts = words.windows(length)
            place = np.minimum(np.searchsorted(grams, hashes), len(grams) - 1)
            hits = np.flatnonzero(grams[place] == hashes)
            text = np.searchsorted(words.offsets, starts[hits], side="right") - 1
            fresh = np.unique(text, return_index=True)[1]
            fresh = fresh[found[text[fresh]] < 0]
            found[text[fresh]] = owners[place[hits[fresh]]]
            where[text[fresh]] = starts[hits[fresh]] - words.offsets[text[fresh]]
        return found, where


def _sorted_table(grams: list[Hashes], owners: list[Ints]) -> tuple[Hashes, Ints]:
    unique, first = np.unique(np.concatenate(grams), return_index=True)
    return unique, np.concatenate(owners)[first]
