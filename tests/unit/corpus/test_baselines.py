"""The n-gram baseline is a probability distribution, and compresses as the literature says."""

from __future__ import annotations

import numpy as np

from foundling.corpus.baselines import KneserNey, _interpolate, _mask, compression_baselines, ngram_bits_per_byte

TRAIN = ["the cat sat on the mat. the dog sat on the log.\n" * 3, "a cat and a dog\n"] * 4


def test_probabilities_of_all_next_bytes_sum_to_one() -> None:
    """Wrong discounts or continuation counts still give plausible numbers; only the sum tells."""
    model = KneserNey(TRAIN, 4)
    for context in (b"the", b"dog", b"xyz", b"\n\n\n"):
        prefix = int.from_bytes(context, "big") << 8
        codes = np.arange(prefix, prefix + 256, dtype=np.uint64)
        probability = np.full(256, 1 / 256)
        for n, level in enumerate(model._levels, 1):
            probability = _interpolate(level, codes & _mask(n), probability)
        assert abs(probability.sum() - 1) < 1e-5 and probability.min() > 0


def test_more_context_helps_on_repetitive_text() -> None:
    held = ["the cat sat on the log.\n"]
    bits = [ngram_bits_per_byte(TRAIN, held, order) for order in (1, 2, 4)]
    assert bits[0] > bits[1] > bits[2]
    assert 3 < bits[0] < 5


def test_unseen_bytes_cost_a_finite_price() -> None:
    assert 8 < ngram_bits_per_byte(TRAIN, ["\u4e00\u4e01"], 5) < 30


def test_the_first_byte_of_a_text_is_predicted_too() -> None:
    """Padding must not be scored: two held-out texts cost what they cost alone."""
    one, two, both = (ngram_bits_per_byte(TRAIN, t, 5) for t in (["the"], ["dog"], ["the", "dog"]))
    assert abs((one + two) / 2 - both) < 1e-9


def test_compressors() -> None:
    found = compression_baselines(["hello " * 100, "world"])
    assert 0 < found["gzip"] < 2 and set(found) == {"gzip", "xz"}
