"""From pairwise judgements to a ranking: Bradley-Terry and Elo with intervals, control for length, and agreement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foundling.core.errors import FoundlingError
from foundling.core.rng import numpy_rng
from foundling.evaluation.statistics import Interval

_RIDGE = 1e-2  # keeps a model that never loses at a finite strength
_STEPS = 50


@dataclass(frozen=True)
class Judgement:
    """Which of two answers to one prompt is better. Lengths (in characters) allow control for verbosity."""

    a: str
    b: str
    winner: Literal["a", "b", "tie"]
    length_a: int = 0
    length_b: int = 0


def elo(
    judgements: Sequence[Judgement], *, control_length: bool = True, resamples: int = 200, seed: int = 0
) -> dict[str, Interval]:
    """Elo ratings (mean 1000, 400 points for odds of 10) of a Bradley-Terry model (Bradley & Terry 1952).

    A tie is half a win for both. With `control_length`, a term for the difference in length takes up what judges
    give to longer answers (length-controlled AlpacaEval, Dubois et al. 2024, arXiv:2404.04475). Intervals: 95%,
    bootstrap over judgements.
    """
    if not judgements:
        raise FoundlingError("there are no judgements to rank by")
    names = sorted({name for judgement in judgements for name in (judgement.a, judgement.b)})
    design, wins = _design(judgements, names, control_length)
    point = _ratings(design, wins, len(names))
    rng = numpy_rng("elo", seed)
    drawn = []
    for _ in range(resamples):
        picks = rng.integers(0, len(wins), len(wins))
        drawn.append(_ratings(design[picks], wins[picks], len(names)))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    played = Counter(name for judgement in judgements for name in (judgement.a, judgement.b))
    return {
        name: Interval(float(point[i]), float(min(low[i], point[i])), float(max(high[i], point[i])), played[name])
        for i, name in enumerate(names)
    }


def _design(judgements: Sequence[Judgement], names: list[str], control_length: bool) -> tuple[np.ndarray, np.ndarray]:
    """(judgements, models + 1) with +1 for A, -1 for B and the scaled difference in length; A's share of the win."""
    design = np.zeros((len(judgements), len(names) + 1))
    for row, judgement in zip(design, judgements, strict=True):
        row[names.index(judgement.a)] += 1.0
        row[names.index(judgement.b)] -= 1.0
        row[-1] = math.tanh((judgement.length_a - judgement.length_b) / 500) if control_length else 0.0
    return design, np.array([{"a": 1.0, "b": 0.0, "tie": 0.5}[judgement.winner] for judgement in judgements])


def _ratings(design: np.ndarray, wins: np.ndarray, models: int) -> np.ndarray:
    """Ridge logistic regression by Newton's method, as Elo."""
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (wins - p) - _RIDGE * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(design.shape[1])
        step = np.linalg.solve(hessian, gradient)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    strengths = weights[:models] - weights[:models].mean()
    return np.asarray(1000 + 400 / math.log(10) * strengths)


def cohens_kappa(first: Sequence[object], second: Sequence[object]) -> float:
    """Agreement of two labellers beyond chance (Cohen 1960); 1 is perfect, 0 is chance."""
    if len(first) != len(second) or not first:
        raise FoundlingError(f"kappa needs two equally long lists of labels, got {len(first)} and {len(second)}")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    counts = Counter(first), Counter(second)
    expected = sum(counts[0][label] * counts[1][label] for label in counts[0]) / n**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)
