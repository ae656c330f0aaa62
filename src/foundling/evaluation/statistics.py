"""What a score can be trusted to mean: intervals, paired tests, corrections, and unbiased estimators.

All randomness is seeded by the caller's parts, so the same outcomes always give the same interval and the same p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foundling.core.rng import numpy_rng

Array = NDArray[np.float64]
# Rows of the resampling matrices made at once: keeps memory near 30 MB whatever the number of items.
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A score with its uncertainty: `low <= value <= high` at the stated level, from `n` items."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a share (Wilson 1927): holds its level near 0 and 1 and for small n.

    `n = 0` gives the interval [0, 1] around NaN: nothing is known.
    """
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def bootstrap_mean(
    values: ArrayLike, *, seed: Sequence[object] = (), level: float = 0.95, resamples: int = 2000
) -> Interval:
    """Percentile bootstrap of the mean over items (Efron 1979). `values`: (n,)."""
    data = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(data, np.ones_like(data), seed=seed, level=level, resamples=resamples)


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: Sequence[object] = (),
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap of sum(numerators) / sum(denominators), items resampled together.

    This is the interval of bits per byte: documents are the items, bits the numerators, bytes the denominators.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.size == 0 or bottom.sum() == 0:
        return Interval(math.nan, -math.inf, math.inf, int(top.size))
    ratios = np.sort(_resampled_ratios(top, bottom, numpy_rng("bootstrap", *seed), resamples))
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    value = float(top.sum() / bottom.sum())
    return Interval(value, min(value, float(low)), max(value, float(high)), int(top.size))


def _resampled_ratios(top: Array, bottom: Array, rng: np.random.Generator, resamples: int) -> Array:
    n = top.size
    rows = max(1, _CHUNK_VALUES // n)
    parts = []
    for start in range(0, resamples, rows):
        picks = rng.integers(0, n, size=(min(rows, resamples - start), n))
        parts.append(top[picks].sum(axis=1) / np.maximum(bottom[picks].sum(axis=1), 1e-300))
    return np.concatenate(parts)


def paired_permutation(differences: ArrayLike, *, seed: Sequence[object] = (), permutations: int = 10_000) -> float:
    """Two-sided p that the mean of paired differences is 0, by flipping their signs (Fisher 1935).

    All flips are counted where `permutations` allow it, so that p is exact; else R random ones and the observed one
    (Phipson & Smyth 2010: never 0, and the false-positive rate is at most the level, for every R).
    """
    data = np.asarray(differences, dtype=np.float64)
    data = data[data != 0]  # a zero keeps its value under every sign
    if data.size == 0:
        return 1.0
    # Sums that tie with the observed one up to rounding count as extreme, as they are in exact arithmetic.
    threshold = abs(data.sum()) - 1e-9 * np.abs(data).sum()
    if 2**data.size <= permutations:
        sums = np.zeros(1)
        for value in data:
            sums = np.concatenate((sums - value, sums + value))
        return float((np.abs(sums) >= threshold).mean())
    rng = numpy_rng("permutation", *seed)
    rows = max(1, _CHUNK_VALUES // data.size)
    extreme = 0
    for start in range(0, permutations, rows):
        signs = rng.integers(0, 2, size=(min(rows, permutations - start), data.size), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs.astype(np.float64) @ data) >= threshold).sum())
    return (extreme + 1) / (permutations + 1)


def mcnemar_mid_p(only_first: int, only_second: int) -> float:
    """Two-sided mid-p McNemar test for paired yes/no outcomes (Fagerland, Lydersen & Laake 2013, eq. 6).

    Args:
        only_first: items the first model alone gets right.
        only_second: items the second model alone gets right.
    """
    discordant = only_first + only_second
    if discordant == 0 or only_first == only_second:
        return 1.0
    smaller = min(only_first, only_second)
    log_half = discordant * math.log(0.5)
    masses = [math.exp(_log_choose(discordant, k) + log_half) for k in range(smaller + 1)]
    return min(1.0, 2 * (math.fsum(masses) - 0.5 * masses[-1]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979): controls the chance of any false claim among all tests."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of "at least one of k samples is right" from n samples (Chen et al. 2021, eq. 1).

    1 - C(n - correct, k) / C(n, k). Needs k <= n.
    """
    assert 0 <= correct <= n and 1 <= k <= n, (n, correct, k)
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def pass_all_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of pass^k, "all of k samples are right" (tau-bench, Yao et al. 2024): C(c, k) / C(n, k)."""
    assert 0 <= correct <= n and 1 <= k <= n, (n, correct, k)
    return math.comb(correct, k) / math.comb(n, k)


def items_to_tell(differences: ArrayLike, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Items a paired test would need to see the mean difference observed here, at this level and power.

    n = ((z_{1-alpha/2} + z_power) * sd / |mean|)^2. None if the observed difference is zero: no size would tell.
    """
    data = np.asarray(differences, dtype=np.float64)
    if data.size < 2 or data.mean() == 0:
        return None
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    return max(2, math.ceil((z * float(data.std(ddof=1)) / abs(float(data.mean()))) ** 2))


def effect_size(differences: ArrayLike) -> float:
    """Cohen's d_z of paired differences: mean / standard deviation; 0 if they never differ, infinite if constant."""
    data = np.asarray(differences, dtype=np.float64)
    if data.size == 0 or data.mean() == 0:
        return 0.0
    deviation = float(data.std(ddof=1)) if data.size > 1 else 0.0
    return float(data.mean()) / deviation if deviation > 0 else math.copysign(math.inf, float(data.mean()))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
