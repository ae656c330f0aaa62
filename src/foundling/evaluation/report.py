"""The holistic report: models × tasks with intervals, win rates, quality against cost, worst slices, samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError
from foundling.core.report import Page, figure, new_figure, table
from foundling.evaluation.compare import Comparison, compare_outcomes
from foundling.evaluation.report_costs import cost_table, scaling_table
from foundling.evaluation.report_samples import write_samples
from foundling.evaluation.scores import read_outcomes, read_results
from foundling.evaluation.task import Outcome

WORST_SLICES = 8
BUDGET_NOTE = (
    "What can be left to the model: the share of questions that it answers when it abstains below a confidence, and "
    "how many of those answers are wrong. Nine right answers in ten deploy nothing if one wrong answer in a hundred is "
    "too many."
)


@dataclass(frozen=True)
class Evaluated:
    """One model's evaluation, read."""

    name: str
    results: dict[str, Any]
    outcomes: dict[str, dict[str, Outcome]]
    costs: dict[str, dict[str, float]]  # task -> seconds, and money where prices were given
    memory: int  # peak resident bytes; 0: not known

    @classmethod
    def read(cls, name: str, evaluation: Artifact) -> Evaluated:
        """Read an evaluation artifact."""
        timings = json.loads(evaluation.file("timings.json").read_text(encoding="utf-8"))
        memory = int(evaluation.run.get("peak_memory_bytes", 0))
        return cls(name, read_results(evaluation), read_outcomes(evaluation), timings, memory)

    @property
    def seconds(self) -> float:
        """Time of all tasks."""
        return sum(spent["seconds"] for spent in self.costs.values())


def write_report(evaluations: Mapping[str, Artifact], path: Path) -> None:
    """An HTML page about evaluations of one or more models, by name; every answer in a folder of pages beside it.

    Raises:
        FoundlingError: no evaluation is given.
    """
    if not evaluations:
        raise FoundlingError("there is no evaluation to report on")
    models = [Evaluated.read(name, artifact) for name, artifact in evaluations.items()]
    page = Page("Evaluation", ", ".join(evaluations))
    page.section("Scores", _score_table(models), note="95% intervals: Wilson for shares, bootstrap for the rest.")
    if len(models) > 1:
        comparisons = _comparisons(models)
        page.section(
            "Who beats whom", _win_table(models, comparisons), note="Paired tests on shared items, Holm's correction."
        )
        page.section("Every comparison", _comparison_table(comparisons))
        page.section("Quality against cost", _pareto(models))
    scaling = scaling_table(models)
    if scaling is not None:
        page.section(
            "Scaling", scaling, note="Scores against size: a negative slope means that larger models do worse."
        )
    page.section("Worst slices", _worst_slices(models))
    calibrated = [m for m in models if any("calibration" in t for t in m.results["tasks"].values())]
    if calibrated:
        page.section("Calibration", _calibration(calibrated), note="How often a model is right when it is this sure.")
        page.section("Error budget", _error_budget(calibrated), note=BUDGET_NOTE)
    contaminated = _contamination(models)
    if contaminated is not None:
        page.section(
            "Contamination", contaminated, note="Scores on items found in the model's own corpus, and on others."
        )
    page.section("Counted", _flags(models), note="What was cut off, truncated or could not be read.")
    page.section("Cost", cost_table(models))
    folder = path.with_name(f"{path.stem}-samples")
    tasks = {task: {m.name: m.outcomes[task] for m in models if task in m.outcomes} for task in _tasks(models)}
    page.section("Every answer", *(write_samples(task, found, folder) for task, found in tasks.items()))
    page.write(path)


def _interval(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _score_table(models: Sequence[Evaluated]) -> str:
    rows = []
    for task in _tasks(models):
        first = next(m.results["tasks"][task] for m in models if task in m.results["tasks"])
        for metric, spec in first["metrics"].items():
            cells = [_cell(m, task, metric) for m in models]
            beside = ", ".join(f"{r['name']} {r['value']:.3f}" for r in spec["reference"])
            arrow = "↑" if spec["higher_is_better"] else "↓"
            rows.append([task, f"{metric} {arrow}", *cells, beside, spec["n"]])
    return table(["task", "metric", *(m.name for m in models), "reference", "n"], rows)


def _cell(model: Evaluated, task: str, metric: str) -> str:
    found = model.results["tasks"].get(task, {}).get("metrics", {}).get(metric)
    return _interval(found) if found else "–"


def _tasks(models: Sequence[Evaluated]) -> list[str]:
    return list(dict.fromkeys(task for model in models for task in model.results["tasks"]))


Pairs = dict[tuple[str, str], list[Comparison]]


def _comparisons(models: Sequence[Evaluated]) -> Pairs:
    found: Pairs = {}
    for a, b in combinations(models, 2):
        if set(a.results["tasks"]) & set(b.results["tasks"]):
            found[a.name, b.name] = compare_outcomes(a.results, a.outcomes, b.results, b.outcomes)
    return found


def _win_table(models: Sequence[Evaluated], pairs: Pairs) -> str:
    counts = {model.name: {"better": 0, "worse": 0, "cannot tell": 0} for model in models}
    turned = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
    for (a, b), comparisons in pairs.items():
        for comparison in comparisons:
            counts[b][comparison.verdict] += 1
            counts[a][turned[comparison.verdict]] += 1
    rows = []
    for name, count in counts.items():
        total = max(1, sum(count.values()))
        share = (count["better"] + 0.5 * count["cannot tell"]) / total
        rows.append([name, count["better"], count["worse"], count["cannot tell"], f"{share:.0%}"])
    return table(["model", "better", "worse", "cannot tell", "win rate (ties half)"], rows)


def _comparison_table(pairs: Pairs) -> str:
    rows = []
    for (a, b), comparisons in pairs.items():
        for c in comparisons:
            difference = f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]"
            tell = c.items_to_tell if c.verdict == "cannot tell" and c.items_to_tell else ""
            rows.append([f"{b} against {a}", c.task, c.metric, difference, f"{c.p_adjusted:.3g}", c.verdict, c.n, tell])
    return table(["", "task", "metric", "difference", "p (Holm)", "verdict", "n", "items that would tell"], rows)


def _pareto(models: Sequence[Evaluated]) -> str:
    """Mean of the shares (higher is better) against seconds; the models on the frontier are marked."""
    points = [(m.name, m.seconds, _quality(m)) for m in models]
    fig, axes = new_figure()
    for name, cost, quality in points:
        best = not any(c <= cost and q >= quality and (c, q) != (cost, quality) for _, c, q in points)
        axes.scatter([cost], [quality], marker="o" if best else "x")
        axes.annotate(name, (cost, quality), textcoords="offset points", xytext=(5, 4))
    axes.set_xlabel("seconds to evaluate")
    axes.set_ylabel("mean score")
    return figure(fig, "Mean of all yes/no scores against evaluation time; dots are on the Pareto frontier.")


def _quality(model: Evaluated) -> float:
    values = [
        metric["value"] if metric["higher_is_better"] else 1 - metric["value"]
        for task in model.results["tasks"].values()
        for metric in task["metrics"].values()
        if metric["kind"] == "share"
    ]
    return sum(values) / len(values) if values else 0.0


def _worst_slices(models: Sequence[Evaluated]) -> str:
    """Slices that lie furthest below their task's score, with intervals that do not reach it first."""
    rows = []
    for model in models:
        for task, summary in model.results["tasks"].items():
            for name, metrics in summary["slices"].items():
                for metric, part in metrics.items():
                    whole = summary["metrics"][metric]
                    sign = 1 if whole["higher_is_better"] else -1
                    gap = sign * (part["value"] - whole["value"])
                    if gap < 0 and part["n"] < whole["n"]:
                        reached = part["low"] <= whole["value"] <= part["high"]
                        cells = [model.name, task, metric, name, _interval(part), _interval(whole), part["n"]]
                        rows.append((reached, gap, cells))
    worst = [cells for *_, cells in sorted(rows, key=lambda row: row[:2])[:WORST_SLICES]]
    return table(["model", "task", "metric", "slice", "slice's score", "whole", "n"], worst) if worst else "No slices."


def _calibration(models: Sequence[Evaluated]) -> str:
    fig, axes = new_figure()
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    for model in models:
        for task, summary in model.results["tasks"].items():
            if "calibration" in summary:
                bins = summary["calibration"]["diagram"]
                error = summary["calibration"]["expected_calibration_error"]
                label = f"{model.name}, {task} (error {error:.3f})"
                axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], marker="o", label=label)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=7, loc="upper left")
    return figure(fig, "Reliability diagram: above the line is too modest, below it too sure.")


def _error_budget(models: Sequence[Evaluated]) -> str:
    rows = []
    for model in models:
        for task, summary in model.results["tasks"].items():
            if "calibration" not in summary:
                continue
            for row in summary["calibration"]["answering_above"]:
                errors = "" if row["errors"] is None else f"{row['errors']:.1%}"
                rows.append([model.name, task, f"sure at {row['threshold']:.2f}", f"{row['coverage']:.1%}", errors])
            for budget, coverage in summary["calibration"]["coverage_at_error_budget"].items():
                rows.append([model.name, task, f"at most {float(budget):.0%} errors", f"{coverage:.1%}", ""])
    return table(["model", "task", "answering where", "answers", "of them wrong"], rows)


def _contamination(models: Sequence[Evaluated]) -> str | None:
    rows = []
    for model in models:
        for task, summary in model.results["tasks"].items():
            found = summary.get("contamination")
            for metric in (found or {}).get("clean", {}):
                sides = [found[side].get(metric) for side in ("clean", "dirty")]
                cells = [f"{_interval(side)} (n={side['n']})" if side else "none" for side in sides]
                rows.append([model.name, task, metric, found["dirty_items"], *cells])
    columns = ["model", "task", "metric", "items found in the corpus", "clean", "found"]
    return table(columns, rows) if rows else None


def _flags(models: Sequence[Evaluated]) -> str:
    rows = [
        [model.name, task, flag, count, f"{count / max(1, summary['items']):.1%}"]
        for model in models
        for task, summary in model.results["tasks"].items()
        for flag, count in summary["flags"].items()
    ]
    return table(["model", "task", "what", "items", "share"], rows) if rows else "Nothing."
