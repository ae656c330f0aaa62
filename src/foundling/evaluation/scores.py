"""From per-item outcomes to scores with intervals, overall and by slice, and back from an artifact's files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError
from foundling.evaluation.statistics import Interval, bootstrap_mean, bootstrap_ratio, wilson
from foundling.evaluation.task import Evaluable, Metric, Outcome, Task

FORMAT = 1
RESULTS, SAMPLES = "results.json", "samples.jsonl"


def score(metric: Metric, outcomes: Sequence[Outcome], seed: Sequence[object] = ()) -> Interval | None:
    """The metric over the outcomes that have it, or None if none has."""
    values = [outcome.metrics[metric.name] for outcome in outcomes if metric.name in outcome.metrics]
    if not values:
        return None
    if metric.kind == "ratio":
        pairs = [value for value in values if isinstance(value, (tuple, list))]
        return bootstrap_ratio([p[0] for p in pairs], [p[1] for p in pairs], seed=(*seed, metric.name))
    numbers = [value for value in values if isinstance(value, (int, float))]
    if metric.kind == "share":
        return wilson(sum(numbers), len(numbers))
    return bootstrap_mean(numbers, seed=(*seed, metric.name))


def summarise(evaluable: Evaluable, outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """One task's part of results.json: metrics with interval, n and references; slices; counts of flags."""
    task, metrics, answered = evaluable.task, {}, {outcome.id for outcome in outcomes}
    references = evaluable.references([item for item in evaluable.items() if item.id in answered]) if outcomes else {}
    for metric in task.metrics:
        interval = score(metric, outcomes, (seed, task.name))
        if interval is not None:
            beside = [{"name": r.name, "value": r.value} for r in references.get(metric.name, [])]
            metrics[metric.name] = {**_plain(metric, interval), "reference": beside}
    return {
        "version": task.version,
        "settings": task.settings,
        "items": len(outcomes),
        "metrics": metrics,
        "slices": _slices(task, outcomes, seed),
        "tokens": {
            "read": sum(outcome.tokens[0] for outcome in outcomes),
            "written": sum(outcome.tokens[1] for outcome in outcomes),
        },
        "flags": dict(sorted(Counter(flag for outcome in outcomes for flag in outcome.flags).items())),
    }


def _slices(task: Task, outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    names = sorted({outcome.slice for outcome in outcomes if outcome.slice})
    table: dict[str, Any] = {}
    for name in names:
        chosen = [outcome for outcome in outcomes if outcome.slice == name]
        intervals = {m.name: score(m, chosen, (seed, task.name, name)) for m in task.metrics}
        table[name] = {k: {"value": i.value, "low": i.low, "high": i.high, "n": i.n} for k, i in intervals.items() if i}
    return table


def _plain(metric: Metric, interval: Interval) -> dict[str, Any]:
    return {
        "kind": metric.kind,
        "higher_is_better": metric.higher_is_better,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }


def outcome_line(task: str, outcome: Outcome) -> str:
    """One line of samples.jsonl."""
    row = {"task": task, "id": outcome.id, "slice": outcome.slice, "metrics": outcome.metrics}
    rest = {"flags": list(outcome.flags), "tokens": list(outcome.tokens), "sample": outcome.sample}
    return json.dumps({**row, **rest}, ensure_ascii=False) + "\n"


def parse_outcome(line: str) -> tuple[str, Outcome]:
    """(task, outcome) from a line of samples.jsonl."""
    row = json.loads(line)
    metrics = {name: tuple(value) if isinstance(value, list) else value for name, value in row["metrics"].items()}
    read, written = row.get("tokens", (0, 0))  # absent before tokens were counted
    return row["task"], Outcome(row["id"], metrics, row["sample"], row["slice"], tuple(row["flags"]), (read, written))


def read_results(evaluation: Artifact) -> dict[str, Any]:
    """results.json of an evaluation artifact. Raises FoundlingError if this version cannot read it."""
    results: dict[str, Any] = json.loads(evaluation.file(RESULTS).read_text(encoding="utf-8"))
    if results.get("format") != FORMAT:
        raise FoundlingError(f"{evaluation.path} has result format {results.get('format')}", f"this reads {FORMAT}")
    return results


def read_outcomes(evaluation: Artifact) -> dict[str, dict[str, Outcome]]:
    """Outcomes of an evaluation artifact: task -> item id -> outcome."""
    outcomes: dict[str, dict[str, Outcome]] = {}
    with evaluation.file(SAMPLES).open(encoding="utf-8") as lines:
        for line in lines:
            task, outcome = parse_outcome(line)
            outcomes.setdefault(task, {})[outcome.id] = outcome
    return outcomes
