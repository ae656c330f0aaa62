"""What a model must at least beat on held-out text: an n-gram model of the same tokens, trained on all of the text."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from foundling.training.bits_per_byte import HeldOut
from foundling.training.token_files import TokenSplit

Tokens = NDArray[np.int64]
DISCOUNT = 0.75


def token_ngram_bits_per_byte(train: TokenSplit, held_out: HeldOut, order: int = 3) -> float:
    """An n-gram model trained on the whole train split, scored on the held-out documents."""
    model = NGram(train.stream, train.vocab_size, order)
    nats = -sum(float(model.logprobs(tokens).sum()) for tokens in held_out.documents_tokens())
    return nats / math.log(2) / max(held_out.bytes, 1)


class NGram:
    """Interpolated absolute discounting: p(w | h) = (max(c(hw) - d, 0) + d · n(h) · p(w | shorter h)) / c(h).

    n(h) is the number of different continuations of h. Ney, Essen & Kneser 1994; Chen & Goodman 1999, §2.7.

    Args:
        stream: (tokens,) training tokens.
        order: tokens in the longest n-gram.
    """

    def __init__(self, stream: NDArray[np.unsignedinteger], vocab_size: int, order: int) -> None:
        assert order >= 1 and vocab_size**order < 2**63, "n-grams must fit in 64 bits"
        self.vocab_size = vocab_size
        self.tables = [_Table(_grams(stream.astype(np.int64), vocab_size, n), vocab_size) for n in range(1, order + 1)]

    def logprobs(self, tokens: Tokens) -> NDArray[np.float64]:
        """(tokens - 1,) natural logarithms of p(token | the tokens before it), from the second token on."""
        p = np.full(len(tokens) - 1, 1.0 / self.vocab_size)
        for n, table in enumerate(self.tables, start=1):
            if len(tokens) < max(n, 2):
                break
            grams = _grams(tokens, self.vocab_size, n)
            first = n - 2 if n > 1 else 0  # which prediction the first n-gram belongs to
            part = grams if n > 1 else grams[1:]
            p[first:] = table.refine(part, p[first:])
        return np.log(p)


class _Table:
    """Counts of the n-grams of one length, and of their histories."""

    def __init__(self, grams: Tokens, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.grams, self.counts = np.unique(grams, return_counts=True)
        self.histories, starts = np.unique(self.grams // vocab_size, return_index=True)
        self.totals = np.add.reduceat(self.counts, starts)
        self.kinds = np.diff(np.append(starts, len(self.grams)))

    def refine(self, grams: Tokens, shorter: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities under this length, backed by those of the shorter one; unseen histories keep the shorter."""
        counts = _look_up(self.grams, self.counts, grams)
        history = grams // self.vocab_size
        totals, kinds = _look_up(self.histories, self.totals, history), _look_up(self.histories, self.kinds, history)
        seen = np.maximum(counts - DISCOUNT, 0) + DISCOUNT * kinds * shorter
        return np.where(totals > 0, seen / np.maximum(totals, 1), shorter)


def _look_up(keys: Tokens, values: Tokens, wanted: Tokens) -> Tokens:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def _grams(tokens: Tokens, vocab_size: int, n: int) -> Tokens:
    """(tokens - n + 1,) each n-gram as one number in base vocab_size, the last token in the lowest place."""
    count = len(tokens) - n + 1
    out = np.zeros(count, dtype=np.int64)
    for offset in range(n):
        out = out * vocab_size + tokens[offset : offset + count]
    return out
