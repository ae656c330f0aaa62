"""Claims: 95% intervals cover the truth 93-97% of the time; paired tests call equal models different at most 6% of it.

python benchmarks/evaluation_intervals.py
"""

from __future__ import annotations

import numpy as np

from foundling.evaluation.statistics import bootstrap_mean, bootstrap_ratio, mcnemar_mid_p, paired_permutation, wilson

TRIALS = 2000
NULL_TRIALS = 5000  # a rate of 5% is then known to 0.3 points (one standard error)


def coverage() -> None:
    """Simulated truth inside the interval, for n >= 100 and p in [0.1, 0.9]."""
    rng = np.random.default_rng(0)
    for n in (100, 300, 1000):
        for p in (0.1, 0.3, 0.5, 0.7, 0.9):
            counts = rng.binomial(n, p, TRIALS)
            inside = [i.low <= p <= i.high for i in (wilson(int(c), n) for c in counts)]
            resampled = []
            for trial in range(TRIALS // 4):
                drawn = bootstrap_mean(rng.random(n) < p, seed=(n, p, trial), resamples=600)
                resampled.append(drawn.low <= p <= drawn.high)
            print(
                f"n={n:5d} p={p}: Wilson {np.mean(inside):.3f}, bootstrap {np.mean(resampled):.3f} (wanted 0.93-0.97)"
            )
    inside = []
    for trial in range(TRIALS // 4):
        sizes = rng.lognormal(8, 0.8, 150)
        bits = sizes * (2.0 + rng.normal(0, 0.3, 150))
        interval = bootstrap_ratio(bits, sizes, seed=(trial,), resamples=600)
        inside.append(interval.low <= 2.0 <= interval.high)
    print(f"bits per byte over 150 documents: bootstrap {np.mean(inside):.3f} (wanted 0.93-0.97)")


def false_positives() -> None:
    """How often two equally good models are called different at the 5% level."""
    rng = np.random.default_rng(1)
    for n in (100, 300, 1000):
        mcnemar, permutation = [], []
        for trial in range(NULL_TRIALS):
            hard = rng.random(n)
            a, b = rng.random(n) < hard, rng.random(n) < hard
            mcnemar.append(mcnemar_mid_p(int((a & ~b).sum()), int((b & ~a).sum())) < 0.05)
            differences = rng.standard_t(3, n)
            permutation.append(paired_permutation(differences, seed=(trial,), permutations=499) < 0.05)
        print(
            f"n={n:5d}: mid-p McNemar {np.mean(mcnemar):.3f}, permutation {np.mean(permutation):.3f} (wanted <= 0.06)"
        )


if __name__ == "__main__":
    coverage()
    false_positives()
