"""Packing: every token exactly once, no row too full, few documents cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foundling.tokenization.packing import Packing, best_fit, concatenate

LENGTHS = st.lists(st.integers(0, 50), max_size=60)


def check(found: Packing, lengths: list[int], capacity: int) -> None:
    seen = {(d, t) for d, s, n in zip(found.document, found.start, found.length) for t in range(s, s + n)}
    assert len(seen) == found.length.sum() == sum(lengths)
    assert seen == {(d, t) for d, n in enumerate(lengths) for t in range(n)}
    loads = np.bincount(found.row, found.length, found.rows)
    assert (loads <= capacity).all() and (loads > 0).all()
    assert found.padding == found.rows * capacity - sum(lengths)


@given(lengths=LENGTHS, capacity=st.integers(1, 40))
def test_every_token_is_in_one_row(lengths: list[int], capacity: int) -> None:
    check(best_fit(np.array(lengths, np.int64), capacity), lengths, capacity)
    check(concatenate(np.array(lengths, np.int64), capacity), lengths, capacity)


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_best_fit_cuts_nothing_that_fits_and_wastes_little(lengths: list[int]) -> None:
    found = best_fit(np.array(lengths, np.int64), 20)
    assert found.cut == 0 and len(found.length) == len(lengths)
    fewest = -(-sum(lengths) // 20)
    assert found.rows <= 11 / 9 * max(fewest, sum(n > 10 for n in lengths)) * 1.5 + 1
    loads = np.sort(np.bincount(found.row, found.length, found.rows))
    assert found.rows < 2 or loads[0] + loads[1] > 20  # two rows that fit into one would be one


def test_rows_of_real_lengths() -> None:
    """Ding et al. report under 0.01% padding on real mixtures of lengths."""
    lengths = np.random.default_rng(0).geometric(1 / 300, 20_000).astype(np.int64)
    packed, plain = best_fit(lengths, 1024), concatenate(lengths, 1024)
    assert packed.padding / lengths.sum() < 0.001
    assert packed.cut < plain.cut / 5
    assert packed.segments(0)[0][2] == 1024
