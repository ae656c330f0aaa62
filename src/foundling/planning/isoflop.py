"""Chinchilla's approaches 1 and 2: the envelope of training curves, and parabolas through runs of equal compute.

Both give N_opt = k C^a without assuming the law's form (Hoffmann et al. 2022, sections 3.1 and 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundling.core.errors import FoundlingError
from foundling.planning.runs import Runs

BAND = 0.12  # budgets within 12% are one group
LEVEL = 0.95


@dataclass(frozen=True)
class Optima:
    """The best size at several budgets, and the power law through them.

    Attributes:
        flops, parameters, loss: one entry a budget.
        a: N_opt ~ C^a, with a bootstrap interval over the budgets' runs.
    """

    flops: np.ndarray
    parameters: np.ndarray
    loss: np.ndarray
    a: float
    low: float
    high: float

    def at(self, flops: float) -> float:
        """The best size at a budget, on the fitted line."""
        slope, start = np.polyfit(np.log(self.flops), np.log(self.parameters), 1)
        return float(np.exp(start + slope * np.log(flops)))


def isoflop(runs: Runs, *, bootstraps: int = 200, seed: int = 0) -> Optima:
    """Approach 2: in each group of equal compute a parabola of loss over log N; its bottom is the best size.

    Raises:
        FoundlingError: fewer than three budgets with at least four sizes and a bottom between them.
    """
    groups = [group for group in budgets(runs) if len(group) >= 4]
    rng = np.random.default_rng(seed)

    def bottoms(pick: bool) -> list[tuple[float, float, float]]:
        chosen = (rng.choice(group, len(group)) if pick else group for group in groups)
        return [point for group in chosen if (point := _bottom(runs.where(group))) is not None]

    points = bottoms(pick=False)
    return _through(
        points, [bottoms(pick=True) for _ in range(bootstraps)], "budgets with a bottom between their sizes"
    )


def envelope(runs: Runs, *, bins: int = 12, bootstraps: int = 200, seed: int = 0) -> Optima:
    """Approach 1: at each budget the run, or point of a training curve, of least loss.

    Args:
        runs: points of training curves: the loss of each size after some tokens.
    """
    edges = np.geomspace(runs.flops.min() * 0.999, runs.flops.max() * 1.001, bins + 1)
    rng = np.random.default_rng(seed)

    def lowest(indices: np.ndarray) -> list[tuple[float, float, float]]:
        place = np.digitize(runs.flops[indices], edges)
        best = (indices[place == b][runs.loss[indices[place == b]].argmin()] for b in np.unique(place))
        return [(float(runs.flops[i]), float(runs.parameters[i]), float(runs.loss[i])) for i in best]

    everything = np.arange(len(runs))
    samples = [lowest(rng.choice(everything, len(everything))) for _ in range(bootstraps)]
    return _through(lowest(everything), samples, "budgets")


def budgets(runs: Runs) -> list[np.ndarray]:
    """Indices of runs of nearly equal compute, grouped along the gaps."""
    order = np.argsort(runs.flops)
    gaps = np.diff(np.log(runs.flops[order])) > BAND
    return np.split(order, np.flatnonzero(gaps) + 1)


def _bottom(runs: Runs) -> tuple[float, float, float] | None:
    x = np.log(runs.parameters)
    if len(np.unique(x)) < 3:
        return None
    curve, slope, start = np.polyfit(x - x.mean(), runs.loss, 2)
    if curve <= 0:
        return None
    best = x.mean() - slope / (2 * curve)
    if not x.min() <= best <= x.max():
        return None
    return float(np.exp(np.log(runs.flops).mean())), float(np.exp(best)), float(start - slope**2 / (4 * curve))


def _through(
    points: list[tuple[float, float, float]], samples: list[list[tuple[float, float, float]]], what: str
) -> Optima:
    if len(points) < 3:
        raise FoundlingError(f"{len(points)} {what} are too few for a power law", "3 or more were expected")
    flops, parameters, loss = np.array(points).T
    slopes = [slope for sample in samples if len(sample) >= 3 and np.isfinite(slope := _slope(sample))]
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if slopes else (np.nan, np.nan)
    return Optima(flops, parameters, loss, _slope(points), float(low), float(high))


def _slope(points: list[tuple[float, float, float]]) -> float:
    flops, parameters, _ = np.log(np.array(points)).T
    return float(np.polyfit(flops, parameters, 1)[0]) if np.ptp(flops) > 0 else float("nan")
