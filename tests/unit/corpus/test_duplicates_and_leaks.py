"""Duplicates, decontamination and the split."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foundling.core.errors import FoundlingError
from foundling.corpus import duplicates, splits
from foundling.corpus.columns import FlatText
from foundling.corpus.config import CorpusConfig
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.signatures import Bands, signatures
from foundling.corpus.words import word_hashes

RNG = np.random.default_rng(1)


def words(n: int) -> list[str]:
    return [f"w{i}" for i in RNG.integers(0, 50_000, n)]


def hashes(texts: list[str]):
    return word_hashes(FlatText.of(pl.Series(texts)))


def test_near_duplicates_share_a_cluster_and_strangers_do_not() -> None:
    base = [words(400) for _ in range(30)]
    copies = [[*text[:395], *words(5)] for text in base]
    texts = [" ".join(t) for t in [*base, *copies]]
    clusters = duplicates.near_clusters(signatures(hashes(texts)), 0.8, np.ones(60, bool))
    assert clusters.tolist() == [*range(30), *range(30)]
    assert np.flatnonzero(duplicates.choose(clusters, np.arange(60))).tolist() == list(range(30))


def test_documents_that_are_not_compared_stay_alone() -> None:
    """Short texts have few shingles; their signatures collide by accident."""
    text = " ".join(words(100))
    clusters = duplicates.near_clusters(signatures(hashes([text, text])), 0.8, np.array([True, False]))
    assert clusters.tolist() == [0, 1]


def test_exact_duplicates_keep_the_first() -> None:
    assert duplicates.exact(np.array([5, 7, 5, 5], np.uint64)).tolist() == [False, False, True, True]


def test_every_verbatim_leak_is_found_with_its_item() -> None:
    items = [" ".join(words(n)) for n in (4, 8, 12, 13, 14, 40)]
    texts = [f"{' '.join(words(50))} {item.upper()}. {' '.join(words(50))}" for item in items] + [" ".join(words(500))]
    found, where = HeldOut(items).matches(hashes(texts))
    assert found.tolist() == [0, 1, 2, 3, 4, 5, -1]
    assert where[:6].tolist() == [50] * 6


def test_part_of_a_long_item_is_a_leak_and_of_a_short_one_is_not() -> None:
    item = words(30)
    short = words(10)
    texts = [" ".join([*words(20), *item[5:18], *words(20)]), " ".join([*words(20), *short[:9], *words(20)])]
    assert HeldOut([" ".join(item), " ".join(short)]).matches(hashes(texts))[0].tolist() == [0, -1]


def test_a_leak_across_two_documents_is_none() -> None:
    item = words(20)
    assert HeldOut([" ".join(item)]).matches(hashes([" ".join(item[:10]), " ".join(item[10:])]))[0].tolist() == [-1, -1]


def test_nothing_held_out_finds_nothing() -> None:
    held_out = HeldOut(["two words", ""])
    assert held_out.ignored == 2
    assert held_out.matches(hashes(["two words", "x"]))[0].tolist() == [-1, -1]


def test_a_cluster_falls_on_one_side() -> None:
    n = 200
    ids = RNG.integers(0, 2**63, n).astype(np.uint64)
    clusters = np.repeat(np.arange(0, n, 4), 4)
    config = CorpusConfig(validation_bytes=2000, validation_share=0.5)
    chosen = splits.validation(config, ids, np.full(n, 100), clusters, np.ones(n, bool))
    assert {len(set(chosen[clusters == c])) for c in set(clusters.tolist())} == {1}
    assert 2000 <= chosen.sum() * 100 <= 2400


def test_the_split_does_not_depend_on_order_and_does_on_the_seed() -> None:
    n = 100
    ids = RNG.integers(0, 2**63, n).astype(np.uint64)
    sizes = RNG.integers(50, 150, n)
    order = RNG.permutation(n)

    def held(config: CorpusConfig, index: np.ndarray) -> set[int]:
        found = splits.validation(config, ids[index], sizes[index], np.arange(n), np.ones(n, bool))
        return set(ids[index][found].tolist())

    config = CorpusConfig(validation_bytes=1000)
    assert held(config, np.arange(n)) == held(config, order)
    assert held(config, order) != held(CorpusConfig(validation_bytes=1000, seed=1), order)


def test_a_cluster_with_an_ineligible_member_is_not_held_out() -> None:
    config = CorpusConfig(validation_bytes=100, validation_share=0.5)
    ids, clusters = np.arange(4, dtype=np.uint64), np.array([0, 0, 2, 2])
    chosen = splits.validation(config, ids, np.full(4, 50), clusters, np.array([True, False, True, True]))
    assert chosen.tolist() == [False, False, True, True]


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(FoundlingError, match="validation_bytes=0"):
        splits.validation(CorpusConfig(), np.zeros(1, np.uint64), np.array([100]), np.zeros(1, int), np.ones(1, bool))


@pytest.mark.parametrize("length", [13, 16, 20, 30, 60])
def test_leaks_with_changed_words_are_found(length: int) -> None:
    """Five words in a hundred (at least one) replaced: at least 95% of the items are found, and no other one."""
    items = [words(length) for _ in range(200)]
    texts = []
    for item in items:
        changed = list(item)
        for place in RNG.choice(length, max(1, round(length * 0.05)), replace=False):
            changed[place] = "another"
        texts.append(" ".join([*words(40), *changed, *words(40)]))
    found = HeldOut([" ".join(item) for item in items]).matches(hashes(texts))[0]
    assert (found == np.arange(200)).mean() >= 0.95
    assert set(found.tolist()) <= {-1, *range(200)}


def test_text_on_the_same_topic_is_no_leak() -> None:
    item = "What is the capital of the largest country in South America by total land area today"
    other = "Brazil is the largest country in South America. The capital of the country is a planned city of today."
    assert HeldOut([item]).matches(hashes([other]))[0].tolist() == [-1]


def test_near_duplicate_recall_follows_the_theory() -> None:
    """1 - (1 - s^rows)^bands, within three standard errors, on pairs whose true similarity is known."""
    pairs = 300
    for shared in (0.6, 0.7, 0.8, 0.9):
        texts, truths = [], []
        for _ in range(pairs):
            a = words(300)
            keep = int(300 * 2 * shared / (1 + shared))
            b = [*a[:keep], *words(300 - keep)]
            texts += [" ".join(a), " ".join(b)]
            sets = [{tuple(t[i : i + 5]) for i in range(296)} for t in (a, b)]
            truths.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
        bands = Bands.for_threshold(0.8)
        band_hashes = bands.hashes(signatures(hashes(texts)))
        candidates = (band_hashes[0::2] == band_hashes[1::2]).any(axis=1).mean()
        expected = np.mean([bands.recall(t) for t in truths])
        assert abs(candidates - expected) < 3 * np.sqrt(expected * (1 - expected) / pairs) + 0.01
