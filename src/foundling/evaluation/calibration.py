"""Does a model know what it knows? Calibration, selective answering, and what accuracy means for deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foundling.evaluation.statistics import Interval, wilson
from foundling.evaluation.task import Outcome


@dataclass(frozen=True)
class Bin:
    """Items whose confidence lies in [low, high): how sure the model was, and how often it was right."""

    low: float
    high: float
    confidence: float
    accuracy: Interval


def reliability_diagram(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> list[Bin]:
    """Equal-width bins with at least one item, from the least to the most confident."""
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.digitize(sure, edges[1:-1]), 0, bins - 1)
    found = []
    for index in range(bins):
        mine = place == index
        if mine.any():
            accuracy = wilson(float(right[mine].sum()), int(mine.sum()))
            found.append(Bin(float(edges[index]), float(edges[index + 1]), float(sure[mine].mean()), accuracy))
    return found


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Mean |confidence - accuracy| over equal-width bins, weighted by their items (Naeini et al. 2015)."""
    diagram = reliability_diagram(confidence, correct, bins)
    total = sum(found.accuracy.n for found in diagram)
    return sum(found.accuracy.n * abs(found.confidence - found.accuracy.value) for found in diagram) / max(total, 1)


@dataclass(frozen=True)
class Operating:
    """Answering only above a confidence threshold: how much is answered, and how often that is wrong."""

    threshold: float
    coverage: float
    errors: Interval


def selective_answering(
    confidence: ArrayLike, correct: ArrayLike, thresholds: Sequence[float] = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
) -> list[Operating]:
    """The error-budget table: at each threshold the share answered and the error rate among the answers."""
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    rows = []
    for threshold in thresholds:
        answered = sure >= threshold
        wrong = float((1 - right[answered]).sum())
        rows.append(
            Operating(threshold, float(answered.mean()) if sure.size else 0.0, wilson(wrong, int(answered.sum())))
        )
    return rows


def coverage_within_budget(confidence: ArrayLike, correct: ArrayLike, budget: float) -> float:
    """The largest share of items, most confident first, whose error rate stays within `budget`.

    "90% accurate" can be 0% deployable: this is the part that a person need not check.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.size == 0:
        return 0.0
    order = np.argsort(-sure, kind="stable")
    errors = np.cumsum(1 - right[order]) / np.arange(1, sure.size + 1)
    # Items of equal confidence are answered together or not at all.
    last_of_tie = np.append(np.diff(sure[order]) != 0, True)
    fine = np.flatnonzero((errors <= budget) & last_of_tie)
    return float((fine[-1] + 1) / sure.size) if fine.size else 0.0


def calibration_summary(confidence: Sequence[float], correct: Sequence[float]) -> dict[str, Any]:
    """What results.json holds: calibration error, the diagram, the error-budget table."""
    return {
        "expected_calibration_error": expected_calibration_error(confidence, correct),
        "diagram": [
            {"low": b.low, "high": b.high, "confidence": b.confidence, "accuracy": b.accuracy.value, "n": b.accuracy.n}
            for b in reliability_diagram(confidence, correct)
        ],
        "answering_above": [
            {"threshold": row.threshold, "coverage": row.coverage, "errors": row.errors.value if row.errors.n else None}
            for row in selective_answering(confidence, correct)
        ],
        "coverage_at_error_budget": {
            str(budget): coverage_within_budget(confidence, correct, budget) for budget in (0.01, 0.05, 0.1, 0.2)
        },
    }


def confidences(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    """(confidence, correct) of the outcomes that have them: choices, and answers that were sampled several times."""
    rows = [(o.sample["confidence"], o.sample["correct"]) for o in outcomes if "confidence" in o.sample]
    return [float(sure) for sure, _ in rows], [float(right) for _, right in rows]


def seed_variance(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """The score that each sample's seed alone would have given, and their standard deviation; None without samples."""
    each = [outcome.sample["each"] for outcome in outcomes if "each" in outcome.sample]
    if not each:
        return None
    scores = np.asarray(each, dtype=np.float64).mean(axis=0)
    return {"scores": [float(s) for s in scores], "deviation": float(scores.std(ddof=1)) if scores.size > 1 else None}
