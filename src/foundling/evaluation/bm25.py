"""BM25: texts in the order of how many of a query's rarer words they share."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
K1, B = 1.5, 0.75  # Robertson & Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"


class BM25:
    """Ranks texts by how many of a query's rarer words they share."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(_WORD.findall(text.lower())) for text in texts]
        lengths = [sum(words.values()) for words in counts]
        mean = max(sum(lengths) / max(len(texts), 1), 1e-9)
        self.scale = [K1 * (1 - B + B * length / mean) for length in lengths]
        self.found: dict[str, list[tuple[int, int]]] = defaultdict(list)  # word -> (text, how often it is there)
        for number, words in enumerate(counts):
            for word, count in words.items():
                self.found[word].append((number, count))

    def nearest(self, query: str, k: int) -> list[int]:
        """The numbers of the `k` best texts, best first; ties by number."""
        scores = [0.0] * len(self.scale)
        for word in _WORD.findall(query.lower()):
            places = self.found.get(word, ())
            rarity = math.log(1 + (len(scores) - len(places) + 0.5) / (len(places) + 0.5))
            for number, count in places:
                scores[number] += rarity * count * (K1 + 1) / (count + self.scale[number])
        return sorted(range(len(scores)), key=lambda number: -scores[number])[:k]
