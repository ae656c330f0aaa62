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


DIFFERENCES = np.array([0.3, -0.1, 0.25, 0.6, 0.0, 0.15, -0.2, 0.4, 0.1, 0.05, 0.35])


def flipped_sums(values: np.ndarray) -> np.ndarray:
    """Sums under all flips of signs."""
    return np.array(list(itertools.product((-1, 1), repeat=len(values)))) @ values


def test_paired_permutation_equals_exact_enumeration() -> None:
    """Guards against one-sided counts and ties dropped by rounding, where all flips are counted and where some are."""
    exact = np.mean(np.abs(flipped_sums(DIFFERENCES)) >= abs(DIFFERENCES.sum()) - 1e-12)
    assert st.paired_permutation(DIFFERENCES) == pytest.approx(exact, abs=1e-12)
    drawn = [st.paired_permutation(DIFFERENCES, seed=(i,), permutations=1000) for i in range(50)]
    assert np.mean(drawn) == pytest.approx((1000 * exact + 1) / 1001, abs=4 * (exact / 50_000) ** 0.5)
    assert st.paired_permutation(np.zeros(5)) == 1.0


def test_mcnemar_mid_p_equals_scipy_binomial() -> None:
    """Guards against the plain exact test, which is needlessly conservative, and overflow for large counts."""
    for first, second in [(5, 12), (0, 6), (40, 40), (300, 220), (2000, 2300)]:
        n, small = first + second, min(first, second)
        expected = 2 * (scipy_stats.binom.cdf(small, n, 0.5) - 0.5 * scipy_stats.binom.pmf(small, n, 0.5))
        assert st.mcnemar_mid_p(first, second) == pytest.approx(1.0 if first == second else expected, rel=1e-9)


def test_paired_permutation_keeps_its_level() -> None:
    """Guards against false positives above 5%, without a simulation's error: every outcome of equal models is counted.

    Given the sizes of the differences, equal models give all signs alike. With R flips the count of extreme ones is
    Binomial(R, p of the outcome), which is what the test before this one shows of the drawn ones.
    """
    sums = np.abs(flipped_sums(DIFFERENCES))
    p_values = np.array([(sums >= value - 1e-12).mean() for value in sums])
    assert np.mean(p_values < 0.05) <= 0.05
    for flips in (99, 500, 1000):
        most = math.ceil(0.05 * (flips + 1)) - 2  # the largest count of extreme flips with p < 0.05
        rejected = scipy_stats.binom.cdf(most, flips, p_values).mean()
        assert 0.03 <= rejected <= 0.05, flips


def test_mcnemar_keeps_its_level() -> None:
    """Guards against false positives above 6% for equal models, exactly, whatever the share of items they differ on.

    The mid-p test may exceed 6% where the number of such items is known (7.7% at 16); over n items it is not.
    """
    levels = [0.0]
    for discordant in range(1, 301):
        least = next(k for k in range(discordant + 1) if st.mcnemar_mid_p(k, discordant - k) >= 0.05)
        levels.append(2 * float(scipy_stats.binom.cdf(least - 1, discordant, 0.5)))
    for n in (100, 300):
        for share in np.linspace(0.005, 1.0, 200):
            assert scipy_stats.binom.pmf(np.arange(n + 1), n, share) @ levels[: n + 1] <= 0.06, (n, share)


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
