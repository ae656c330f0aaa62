"""Scaling laws of a ladder of models that were trained here: fitted, extrapolated, and checked on larger ones.

Approach 3 is fitted to the finished models. Approach 1 takes the envelope of their training curves, approach 2 the
groups of equal compute, where the ladder has them (Hoffmann et al. 2022, section 3).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError, nearest
from foundling.core.stages import Inputs
from foundling.planning.answer import Answer
from foundling.planning.isoflop import Optima, envelope, isoflop
from foundling.planning.runs import Runs
from foundling.planning.scaling_fit import Fit, describe, fit_law
from foundling.planning.scaling_law import beyond, write_law
from foundling.planning.scaling_plots import draw_fit
from foundling.studies.config import ScaleConfig
from foundling.training.pretrain import LOG

RESULTS, LAW, PLOT = "results.json", "law.json", "scaling.png"


def scale(config: ScaleConfig, inputs: Inputs, draft: Draft) -> None:
    """Fit the laws; write results.json, law.json, report.md and scaling.png.

    Args:
        inputs: the ladder's models by name, those that are held out included.

    Raises:
        FoundlingError: too few models, a model without the metric, or a held-out name that is not among them.
    """
    models = dict(inputs.items())
    for name in config.held_out:
        if name not in models:
            raise FoundlingError(f"held-out model {name!r} is not an input", "", nearest(name, models))
    points = {name: _point(name, model, config.loss) for name, model in models.items()}
    ladder = {name: point for name, point in points.items() if name not in config.held_out}
    source = f"{len(ladder)} models trained here"
    fit = fit_law(_runs(ladder), bootstraps=config.bootstraps, seed=config.seed, source=source, delta=config.delta)
    checks = [_check(fit, name, points[name]) for name in config.held_out]
    others = {
        "approach 1, envelope of the training curves": _optima(lambda: envelope(_curves(models, config.held_out))),
        "approach 2, parabolas at equal compute": _optima(lambda: isoflop(fit.runs)),
    }
    answer = describe(fit, [10 * fit.law.largest], [])
    report = {"config": config.model_dump(mode="json"), "models": points, "held_out": checks, "exponents": others}
    report |= {"law": answer.as_dict()}
    (draft.path / RESULTS).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (draft.path / "report.md").write_text(as_markdown(points, checks, others, answer), encoding="utf-8")
    write_law(fit.law, draft.path / LAW)
    draw_fit(fit, [(points[n]["parameters"], points[n]["tokens"]) for n in config.held_out], draft.path / PLOT)
    draft.metrics |= {name: getattr(fit.law, name) for name in ("E", "A", "B", "alpha", "beta")}
    draft.metrics |= {f"error of {check['name']}": check["error"] for check in checks}


def _point(name: str, model: Artifact, loss: str) -> dict[str, float]:
    if loss not in model.metrics:
        has = ", ".join(key for key, value in model.metrics.items() if isinstance(value, float))
        raise FoundlingError(f"model {name!r} has no metric {loss!r}", f"it has {has}", nearest(loss, model.metrics))
    return {"parameters": model.metrics["parameters"], "tokens": model.metrics["tokens"], "loss": model.metrics[loss]}


def _runs(points: Mapping[str, dict[str, float]]) -> Runs:
    columns = ("parameters", "tokens", "loss")
    return Runs(*(np.array([float(point[column]) for point in points.values()]) for column in columns))


def _curves(models: Mapping[str, Artifact], held_out: tuple[str, ...]) -> Runs:
    """Training loss (nats a token) along every model's own log."""
    rows: list[tuple[float, float, float]] = []
    for name, model in models.items():
        lines = [json.loads(line) for line in (model.path / LOG).read_text(encoding="utf-8").splitlines()]
        steps = [line for line in lines if line["kind"] == "step"]
        per_step = model.metrics["tokens"] / model.metrics["steps"]
        if name not in held_out:
            rows += [(model.metrics["parameters"], line["step"] * per_step, line["loss"]) for line in steps]
    return Runs(*np.array(rows, dtype=float).T)


def _check(fit: Fit, name: str, point: dict[str, float]) -> dict[str, Any]:
    """Predicted against measured, for a model that was not fitted."""
    guess = fit.predict(point["parameters"], point["tokens"])
    largest = float(fit.runs.parameters.max())
    return {
        "name": name,
        "parameters": point["parameters"],
        "times_larger": point["parameters"] / largest,
        "predicted": guess.loss,
        "low": guess.low,
        "high": guess.high,
        "measured": point["loss"],
        "error": guess.loss / point["loss"] - 1,
        "within": guess.low <= point["loss"] <= guess.high,
        "warnings": beyond(fit.law, 6 * point["parameters"] * point["tokens"]),
    }


def _optima(fitted: Callable[[], Optima]) -> dict[str, Any]:
    """The exponent of N_opt ~ C^a, or why there is none."""
    try:
        optima = fitted()
    except FoundlingError as error:
        return {"missing": str(error)}
    return {"a": optima.a, "low": optima.low, "high": optima.high, "budgets": len(optima.flops)}


def as_markdown(
    points: Mapping[str, dict[str, float]], checks: list[dict[str, Any]], others: dict[str, Any], answer: Answer
) -> str:
    """The study as a page."""
    lines = [f"# {answer.title}", "", f"![loss against compute]({PLOT})", ""]
    lines += ["| | value, 95% interval |", "|---|---|", *(f"| {f.name} | {f} |" for f in answer.figures), ""]
    for name, found in others.items():
        lines.append(f"- {name}: {found['missing']}" if "missing" in found else
                     f"- {name}: N_opt ~ C^{found['a']:.3f} [{found['low']:.3f}, {found['high']:.3f}]")  # fmt: skip
    if checks:
        lines += ["", "| held out | times larger | predicted, 95% | measured | error |", "|---|---|---|---|---|"]
    for c in checks:
        interval = f"{c['predicted']:.4f} [{c['low']:.4f}, {c['high']:.4f}]"
        lines.append(
            f"| {c['name']} | {c['times_larger']:.2f} | {interval} | {c['measured']:.4f} | {c['error']:+.1%} |"
        )
    lines += ["", "| model | parameters | tokens | loss |", "|---|---|---|---|"]
    lines += [f"| {n} | {p['parameters']:,} | {p['tokens']:,} | {p['loss']:.4f} |" for n, p in points.items()]
    lines += [
        "",
        *(f"Formula: {text}" for text in answer.formulas),
        *(f"Assumes: {text}" for text in answer.assumptions),
    ]
    lines += [f"**Warning: {text}**" for text in answer.warnings]
    return "\n".join(lines) + "\n"
