"""Word hashes, shingles and MinHash: everything duplicates and decontamination stand on."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.corpus.columns import FlatText, characters, lines
from foundling.corpus.signatures import Bands, signatures, similarity
from foundling.corpus.words import hash_text, word_hashes

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


def flat(texts: list[str]) -> FlatText:
    return FlatText.of(pl.Series(texts, dtype=pl.String))


@given(st.lists(TEXT, max_size=8))
def test_counts_equal_pythons(texts: list[str]) -> None:
    """A batch is one byte array: an offset off by one would give a text its neighbour's lines or characters."""
    found = flat(texts)
    n_lines, longest = lines(found)
    assert characters(found).tolist() == [len(t) for t in texts]
    assert n_lines.tolist() == [t.count("\n") + (t != "" and not t.endswith("\n")) for t in texts]
    assert longest.tolist() == [
        max((len(p.encode()) for p in re.findall("[^\n]*\n|[^\n]+", t)), default=0) for t in texts
    ]


@given(st.lists(TEXT, max_size=8))
def test_a_text_hashes_alike_alone_and_in_a_batch(texts: list[str]) -> None:
    """Words must not run over the border between two texts."""
    batch = word_hashes(flat(texts))
    for number, text in enumerate(texts):
        part = batch.hashes[batch.offsets[number] : batch.offsets[number + 1]]
        assert part.tolist() == hash_text(text).tolist()


def test_words_ignore_case_layout_and_punctuation_but_not_order() -> None:
    assert hash_text("The  quick-brown\nFOX!").tolist() == hash_text("the quick brown fox").tolist()
    assert hash_text("quick the brown fox").tolist() != hash_text("the quick brown fox").tolist()
    assert len(hash_text("日本語の文")) == 5  # scripts without spaces: each character is a word
    assert len(hash_text("naïve café")) == 2


@given(st.lists(st.text("abc ", max_size=40), min_size=1, max_size=6), st.integers(1, 5))
@settings(max_examples=50)
def test_shingles_equal_a_plain_loop(texts: list[str], n: int) -> None:
    words = word_hashes(flat(texts))
    found = words.shingles(n)
    for number, text in enumerate(texts):
        split = text.split()
        expected = len(split) - n + 1 if len(split) >= n else int(bool(split))
        part = found.hashes[found.offsets[number] : found.offsets[number + 1]]
        runs = {tuple(split[i : i + n]) for i in range(max(expected, 0))}
        assert len(part) == expected and len(set(part.tolist())) == len(runs)


def test_minhash_estimates_jaccard_similarity() -> None:
    """Signatures of texts with known overlap: the mean error of 128 values is about 0.04."""
    rng = np.random.default_rng(0)
    for shared in (0.2, 0.5, 0.8):
        estimates, truths = [], []
        for _ in range(20):
            common = rng.integers(0, 10**9, 2000)
            a, b = common.copy(), common.copy()
            keep = int(len(common) * shared)
            a[keep:] = rng.integers(0, 10**9, len(common) - keep)
            texts = [" ".join(map(str, a)), " ".join(map(str, b))]
            sets = [set(zip(*(t.split()[i:] for i in range(5)))) for t in texts]
            signed = signatures(word_hashes(flat(texts)))
            estimates.append(float(similarity(signed[:1], signed[1:])[0]))
            truths.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
        assert abs(np.mean(estimates) - np.mean(truths)) < 0.03


def test_bands_find_what_they_promise() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        bands = Bands.for_threshold(threshold)
        assert bands.recall(threshold) >= 0.97 and bands.count * bands.rows <= 128
        assert bands.recall(threshold - 0.3) < 0.5
