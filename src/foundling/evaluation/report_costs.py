"""What results cost, and what size buys: tables of tokens, seconds, memory and money, and of scores against size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundling.core.report import table
from foundling.core.units import human_bytes, human_count, human_time

if TYPE_CHECKING:
    from foundling.evaluation.report import Evaluated


def cost_table(models: Sequence[Evaluated]) -> str:
    """Tokens read and written, seconds and money of every task; the process's peak memory of each evaluation."""
    rows: list[list[Any]] = []
    for model in models:
        for task, summary in model.results["tasks"].items():
            tokens, spent = summary.get("tokens", {"read": 0, "written": 0}), model.costs.get(task, {})
            money = f"{spent['money']:.4g}" if "money" in spent else ""
            seconds = human_time(spent["seconds"]) if "seconds" in spent else ""
            counts = [summary["items"], human_count(tokens["read"]), human_count(tokens["written"])]
            memory = human_bytes(model.memory) if model.memory else ""
            rows.append([model.name, task, *counts, seconds, memory, money])
    return table(["model", "task", "items", "tokens read", "written", "time", "peak memory", "money"], rows)


def scaling_table(models: Sequence[Evaluated]) -> str | None:
    """How each score goes with the models' size, worst first; None if fewer than three sizes are known.

    The slope is of the score over log10(parameters) by least squares, turned so that a negative one is inverse scaling:
    larger models do worse (McKenzie et al. 2023, arXiv:2306.09479). Its interval resamples items, the same ones for all
    models.
    """
    sized = [m for m in models if m.results.get("model", {}).get("parameters")]
    if len({m.results["model"]["parameters"] for m in sized}) < 3:
        return None
    sizes = np.log10([m.results["model"]["parameters"] for m in sized])
    weights = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()  # slope = weights @ scores
    rows = []
    for task in sized[0].results["tasks"]:
        if not all(task in m.results["tasks"] for m in sized):
            continue
        for metric, spec in sized[0].results["tasks"][task]["metrics"].items():
            slope = _slope(sized, task, metric, spec, weights)
            if slope is not None:
                value, low, high = slope
                verdict = "inverse" if high < 0 else "larger is better" if low > 0 else "cannot tell"
                rows.append((value, [task, metric, f"{value:+.3f} [{low:+.3f}, {high:+.3f}]", verdict]))
    ordered = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    return table(["task", "metric", "gain per tenfold size", "scaling"], ordered)


def _slope(
    models: Sequence[Evaluated], task: str, metric: str, spec: dict[str, Any], weights: np.ndarray
) -> tuple[float, float, float] | None:
    shared = [i for i in models[0].outcomes[task] if all(i in m.outcomes[task] for m in models)]
    shared = [i for i in shared if all(metric in m.outcomes[task][i].metrics for m in models)]
    if not shared:
        return None
    values = np.array([[m.outcomes[task][i].metrics[metric] for i in shared] for m in models], dtype=np.float64)
    top, bottom = (values[..., 0], values[..., 1]) if spec["kind"] == "ratio" else (values, np.ones_like(values))
    sign = 1.0 if spec["higher_is_better"] else -1.0
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        picks = rng.integers(0, len(shared), len(shared))
        drawn.append(sign * float(weights @ (top[:, picks].sum(1) / bottom[:, picks].sum(1))))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = sign * float(weights @ (top.sum(1) / bottom.sum(1)))
    return (value, float(low), float(high)) if math.isfinite(value) else None
