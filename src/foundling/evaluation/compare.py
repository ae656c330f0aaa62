"""Is B better than A? Paired tests on the items both answered, corrected for the number of questions asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError
from foundling.evaluation import statistics
from foundling.evaluation.scores import read_outcomes, read_results
from foundling.evaluation.task import Outcome

Verdict = Literal["better", "worse", "cannot tell"]
Outcomes = dict[str, dict[str, Outcome]]


@dataclass(frozen=True)
class Comparison:
    """B against A on one metric of one task, over the `n` items both answered.

    `difference` is B - A with its 95% interval (paired bootstrap over items). `p` is from mid-p McNemar for yes/no
    outcomes, else from a sign-flip permutation test; `p_adjusted` after Holm over all metrics compared together.
    `items_to_tell`: about how many items would show a difference of this size (80% power, 5% level).
    """

    task: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    n: int
    p: float
    p_adjusted: float
    effect_size: float | None  # mean difference over its standard deviation; None where that is zero
    verdict: Verdict
    items_to_tell: int | None

    def __str__(self) -> str:
        line = f"{self.task} {self.metric}: {self.a:.4g} -> {self.b:.4g}, {self.verdict} "
        line += f"(p={self.p_adjusted:.3g} after Holm, n={self.n}"
        if self.verdict == "cannot tell" and self.items_to_tell:
            line += f"; about {self.items_to_tell} items would tell"
        return line + ")"


def compare(a: Artifact, b: Artifact, *, alpha: float = 0.05) -> list[Comparison]:
    """Compare two evaluation artifacts, metric by metric, on the items they share.

    Raises:
        FoundlingError: they have no task in common, or the same task in another version or with other settings.
    """
    return compare_outcomes(read_results(a), read_outcomes(a), read_results(b), read_outcomes(b), alpha=alpha)


def compare_outcomes(
    results_a: dict[str, Any], a: Outcomes, results_b: dict[str, Any], b: Outcomes, *, alpha: float = 0.05
) -> list[Comparison]:
    """`compare` on results and outcomes already read."""
    shared = [task for task in results_a["tasks"] if task in results_b["tasks"]]
    if not shared:
        names = f"{', '.join(results_a['tasks'])} and {', '.join(results_b['tasks'])}"
        raise FoundlingError("the two evaluations have no task in common", f"they hold {names}")
    found: list[Comparison] = []
    for task in shared:
        first, second = results_a["tasks"][task], results_b["tasks"][task]
        if first["version"] != second["version"]:
            what = f"task {task!r} has version {first['version']} in one and {second['version']} in the other"
            raise FoundlingError(
                what, "scores of different versions cannot be compared", "Evaluate the older one again"
            )
        ids = [i for i in a.get(task, {}) if i in b.get(task, {})]
        for metric, spec in first["metrics"].items():
            if metric in second["metrics"]:
                found += _compare_metric(task, metric, spec, [a[task][i] for i in ids], [b[task][i] for i in ids])
    return _decide(found, {(t, m): s for t in shared for m, s in results_a["tasks"][t]["metrics"].items()}, alpha)


def _compare_metric(
    task: str, metric: str, spec: dict[str, Any], a: Sequence[Outcome], b: Sequence[Outcome]
) -> list[Comparison]:
    """One undecided comparison, or none if no item has the metric on both sides."""
    both = [
        (x.metrics[metric], y.metrics[metric])
        for x, y in zip(a, b, strict=True)
        if metric in x.metrics and metric in y.metrics
    ]
    if not both:
        return []
    first, second, differences = _paired(spec["kind"], [x for x, _ in both], [y for _, y in both])
    if spec["kind"] == "share":
        p = statistics.mcnemar_mid_p(int((differences < 0).sum()), int((differences > 0).sum()))
    else:
        p = statistics.paired_permutation(differences, seed=(task, metric))
    interval = statistics.bootstrap_mean(differences, seed=(task, metric, "difference"))
    comparison = Comparison(
        task=task,
        metric=metric,
        a=first,
        b=second,
        difference=second - first,
        low=interval.low,
        high=interval.high,
        n=len(both),
        p=p,
        p_adjusted=p,
        effect_size=effect if math.isfinite(effect := statistics.effect_size(differences)) else None,
        verdict="cannot tell",
        items_to_tell=statistics.items_to_tell(differences),
    )
    return [comparison]


def _paired(kind: str, a: Sequence[Any], b: Sequence[Any]) -> tuple[float, float, np.ndarray]:
    """Score of A, score of B and per-item differences whose mean is B - A."""
    if kind != "ratio":
        first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        return float(first.mean()), float(second.mean()), second - first
    (top_a, bottom_a), (top_b, bottom_b) = np.asarray(a, dtype=np.float64).T, np.asarray(b, dtype=np.float64).T
    score_a, score_b = top_a.sum() / bottom_a.sum(), top_b.sum() / bottom_b.sum()
    if np.array_equal(bottom_a, bottom_b):  # the same documents: swapping A and B on one of them flips its sign
        return float(score_a), float(score_b), (top_b - top_a) / bottom_a.mean()
    # Linearised ratios (delta method): items weigh by their size, and the mean is the difference of the ratios.
    part_b = (top_b - score_b * bottom_b) / bottom_b.mean() + score_b
    part_a = (top_a - score_a * bottom_a) / bottom_a.mean() + score_a
    return float(score_a), float(score_b), part_b - part_a


def _decide(found: list[Comparison], specs: dict[tuple[str, str], Any], alpha: float) -> list[Comparison]:
    decided = []
    for item, adjusted in zip(found, statistics.holm([c.p for c in found]), strict=True):
        gain = item.difference if specs[item.task, item.metric]["higher_is_better"] else -item.difference
        verdict: Verdict = "cannot tell" if adjusted >= alpha else "better" if gain > 0 else "worse"
        decided.append(replace(item, p_adjusted=adjusted, verdict=verdict))
    return decided
