"""Intervals that cover, tests that keep their level, estimators equal to brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from foundling.evaluation import statistics as st


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [100, 400])
def test_wilson_covers_the_truth(share: float, n: int) -> None:
    """Guards against an interval formula (Wald) that covers far less than it says near 0 and 1."""
    counts = np.arange(n + 1)
    weights = scipy_stats.binom.pmf(counts, n, share)
    intervals = [st.wilson(int(c), n) for c in counts]
    covered = sum(w for w, i in zip(weights, intervals, strict=True) if i.low <= share <= i.high)
    assert 0.93 <= covered <= 0.97


def test_wilson_edges() -> None:
    """Guards against zero-width intervals at 0 and 1, and a division by zero on no items."""
    assert st.wilson(0, 20).high > 0.1 and st.wilson(0, 20).low == 0
    assert st.wilson(20, 20).low < 0.9 and st.wilson(20, 20).high == 1
    assert math.isnan(st.wilson(0, 0).value)
    reference = scipy_stats.binomtest(37, 120).proportion_ci(method="wilson")
    ours = st.wilson(37, 120)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_bootstrap_covers_the_truth(share: float) -> None:
    """Guards against resampling rows and columns the wrong way round, which gives far too narrow intervals."""
    rng = np.random.default_rng(int(share * 100))
    hits = 0
    for trial in range(1000):
        interval = st.bootstrap_mean(rng.random(120) < share, seed=(trial,), resamples=400)
        hits += interval.low <= share <= interval.high
    assert 0.925 <= hits / 1000 <= 0.975


def test_bootstrap_ratio_is_of_sums_and_seeded() -> None:
    """Guards against averaging per-document ratios (short documents would count as much as long ones)."""
    bits, size = np.array([10.0, 900.0]), np.array([10.0, 300.0])
    first = st.bootstrap_ratio(bits, size, seed=("a",))
    assert first.value == pytest.approx(910 / 310)
    assert first == st.bootstrap_ratio(bits, size, seed=("a",))


def test_paired_permutation_equals_exact_enumeration() -> None:
    """Guards against one-sided counts and ties dropped by rounding."""
    values = np.array([0.3, -0.1, 0.25, 0.6, 0.0, 0.15, -0.2, 0.4, 0.1, 0.05])
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    exact = np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-12)
    assert st.paired_permutation(values, permutations=40_000) == pytest.approx(exact, abs=0.006)
    assert st.paired_permutation(np.zeros(5)) == 1.0


def test_mcnemar_mid_p_equals_scipy_binomial() -> None:
    """Guards against the plain exact test, which is needlessly conservative, and overflow for large counts."""
    for first, second in [(5, 12), (0, 6), (40, 40), (300, 220), (2000, 2300)]:
        n, small = first + second, min(first, second)
        expected = 2 * (scipy_stats.binom.cdf(small, n, 0.5) - 0.5 * scipy_stats.binom.pmf(small, n, 0.5))
        assert st.mcnemar_mid_p(first, second) == pytest.approx(1.0 if first == second else expected, rel=1e-9)


def test_paired_tests_keep_their_level() -> None:
    """Guards against a false-positive rate above 6% when two models are equally good."""
    rng = np.random.default_rng(3)
    mcnemar = permutation = 0
    trials = 800
    for trial in range(trials):
        shared = rng.random(150) < 0.5
        a = np.where(shared, rng.random(150) < 0.6, rng.random(150) < 0.3)
        b = np.where(shared, rng.random(150) < 0.6, rng.random(150) < 0.3)
        mcnemar += st.mcnemar_mid_p(int((a & ~b).sum()), int((b & ~a).sum())) < 0.05
        differences = rng.standard_t(4, 60)
        permutation += st.paired_permutation(differences, seed=(trial,), permutations=500) < 0.05
    assert mcnemar / trials <= 0.06
    assert permutation / trials <= 0.065  # 500 permutations: 5% plus three standard errors of this simulation


def test_holm_matches_a_worked_example() -> None:
    """Guards against plain Bonferroni and against adjusted p-values that are not monotone."""
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([]) == []


def test_pass_at_k_equals_enumeration() -> None:
    """Guards against the biased estimate 1 - (1 - c/n)^k."""
    outcomes = [True, True, False, False, False, False]
    for k in range(1, 7):
        subsets = list(itertools.combinations(outcomes, k))
        assert st.pass_at_k(6, 2, k) == pytest.approx(np.mean([any(s) for s in subsets]))
        assert st.pass_all_k(6, 2, k) == pytest.approx(np.mean([all(s) for s in subsets]))


def test_items_to_tell_has_the_power_it_says() -> None:
    """Guards against a sample size off by a factor (sd for variance, one-sided z)."""
    rng = np.random.default_rng(0)
    sample = rng.normal(0.1, 1.0, 4000)
    needed = st.items_to_tell(sample)
    assert needed is not None
    p_values = [scipy_stats.ttest_1samp(rng.normal(sample.mean(), sample.std(), needed), 0).pvalue for _ in range(400)]
    assert 0.72 <= np.mean(np.array(p_values) < 0.05) <= 0.88
    assert st.items_to_tell([0.0, 0.0]) is None and st.effect_size([0.0, 0.0]) == 0.0
