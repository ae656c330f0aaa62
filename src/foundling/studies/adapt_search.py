"""Which texts are near to a question: by their rarer words (BM25) or by vectors, without an index on disk."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from foundling.inference.model import load
from foundling.studies.adapt_config import AdaptConfig

_WORD = re.compile(r"\w+")
K1, B = 1.5, 0.75  # Robertson & Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"


class Search(Protocol):
    """Texts in the order of their nearness to a question."""

    def nearest(self, query: str, k: int) -> list[int]:
        """The numbers of the `k` nearest texts, nearest first."""
        ...


def search_over(texts: Sequence[str], config: AdaptConfig) -> Search:
    """What the config asks for, over some texts."""
    return BM25(texts) if config.search == "bm25" else Vectors(texts, config.embedder)


class Vectors:
    """Ranks texts by the cosine between their vectors and the query's."""

    def __init__(self, texts: Sequence[str], embedder: str) -> None:
        self.model = load(embedder)
        self.vectors = self.model.embed(texts)  # (texts, dim), of length 1

    def nearest(self, query: str, k: int) -> list[int]:
        """The numbers of the `k` best texts, best first; ties by number."""
        scores = self.vectors @ self.model.embed([query])[0]
        return [int(number) for number in np.argsort(-scores, kind="stable")[:k]]


class BM25:
    """Ranks texts by how many of a query's rarer words they share."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.counts = [Counter(_WORD.findall(text.lower())) for text in texts]
        self.lengths = [sum(counts.values()) for counts in self.counts]
        self.mean = max(sum(self.lengths) / max(len(texts), 1), 1e-9)
        self.frequency = Counter(word for counts in self.counts for word in counts)

    def nearest(self, query: str, k: int) -> list[int]:
        """The numbers of the `k` best texts, best first; ties by number."""
        words = _WORD.findall(query.lower())
        scores = [(-self._score(words, number), number) for number in range(len(self.counts))]
        return [number for _, number in sorted(scores)[:k]]

    def _score(self, words: Sequence[str], number: int) -> float:
        counts, score = self.counts[number], 0.0
        for word in words:
            found = counts.get(word, 0)
            if found:
                rarity = math.log(1 + (len(self.counts) - self.frequency[word] + 0.5) / (self.frequency[word] + 0.5))
                scale = K1 * (1 - B + B * self.lengths[number] / self.mean)
                score += rarity * found * (K1 + 1) / (found + scale)
        return score
