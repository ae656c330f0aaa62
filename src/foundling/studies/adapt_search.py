"""Which texts are near to a question: by their rarer words (BM25) or by vectors, without an index on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from foundling.evaluation.bm25 import BM25
from foundling.inference.model import load
from foundling.studies.adapt_config import AdaptConfig


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
