"""MinHash signatures and their bands (Broder 1997; Leskovec, Rajaraman & Ullman, chapter 3), with `rensa`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from foundling.corpus.columns import Hashes
from foundling.corpus.words import WordHashes, mix

PERMUTATIONS = 128
SHINGLE_WORDS = 5
_ROWS = 20_000
Signatures = NDArray[np.uint32]


@dataclass(frozen=True)
class Bands:
    """Cut of a signature into `count` bands of `rows` values: texts that agree on a whole band are candidates."""

    count: int
    rows: int

    @classmethod
    def for_threshold(cls, similarity: float, permutations: int = PERMUTATIONS) -> Bands:
        """The cut with most rows (fewest false candidates) that still finds 97% of pairs at `similarity`."""
        for rows in range(permutations, 0, -1):
            bands = cls(permutations // rows, rows)
            if bands.recall(similarity) >= 0.97:
                return bands
        return cls(permutations, 1)

    def recall(self, similarity: float) -> float:
        """Probability that two texts of this Jaccard similarity become candidates: 1 - (1 - s^rows)^count."""
        return float(1 - (1 - similarity**self.rows) ** self.count)

    def hashes(self, signatures: Signatures) -> Hashes:
        """(texts, count) uint64: one hash for each band of each text."""
        used = signatures[:, : self.count * self.rows].reshape(len(signatures), self.count, self.rows)
        folded = np.zeros(used.shape[:2], np.uint64)
        for row in range(self.rows):
            folded = mix(np.bitwise_xor(folded, used[:, :, row].astype(np.uint64)))
        return folded


def signatures(words: WordHashes, seed: int = 1) -> Signatures:
    """(texts, PERMUTATIONS) uint32 MinHash of each text's shingles of five words."""
    shingles = words.shingles(SHINGLE_WORDS)
    count = len(shingles.offsets) - 1
    out = np.zeros((count, PERMUTATIONS), np.uint32)
    for first in range(0, count, _ROWS):
        last = min(first + _ROWS, count)
        edges = shingles.offsets[first : last + 1]
        flat = np.ascontiguousarray(shingles.hashes[edges[0] : edges[-1]])
        offsets = (edges - edges[0]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, seed)
        out[first:last] = np.array(matrix.to_rows(), np.uint32).reshape(last - first, PERMUTATIONS)
    return out


def similarity(a: Signatures, b: Signatures) -> NDArray[np.float64]:
    """(pairs,) estimated Jaccard similarity of row n of `a` and row n of `b`: the share of equal values."""
    return np.asarray((a == b).mean(axis=1))
