"""The figures of a life's report, drawn from artifacts' manifests and logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from foundling.core.artifacts import Artifact
from foundling.core.files import read_jsonl
from foundling.core.report import PALETTE, figure, new_figure
from foundling.core.units import human_bytes, human_count
from foundling.releases.summary import weight_bytes

LOG = "training.log.jsonl"
Scored = Sequence[tuple[str, Artifact, Artifact]]


def training_log(model: Artifact) -> list[dict[str, Any]]:
    """The lines of a model's training log; empty if it has none."""
    path = model.path / LOG
    if not path.is_file():
        return []
    return read_jsonl(path)


def samples(log: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """(step, text) of the sample generations in a log."""
    return [(line["step"], text) for line in log if line["kind"] == "samples" for text in line["texts"]]


def loss_curve(name: str, log: Sequence[Mapping[str, Any]]) -> Markup:
    """Training loss (and what was evaluated on the way) against steps."""
    steps = [line for line in log if line["kind"] == "step"]
    fig, axes = new_figure(5.2, 2.9)
    reward = [line for line in steps if "reward" in line.get("metrics", {})]
    if reward:
        axes.plot([s["step"] for s in reward], [s["metrics"]["reward"] for s in reward], label="mean reward")
        axes.set_ylabel("reward")
    else:
        axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], label="training loss", linewidth=1.3)
        axes.set_ylabel("loss (nats)")
    evaluated = [line for line in log if line["kind"] == "evaluation" and "loss" in line]
    if len(evaluated) > 1:
        axes.plot([e["step"] for e in evaluated], [e["loss"] for e in evaluated], "o-", label="validation", ms=3)
        axes.legend(frameon=False)
    axes.set_xlabel("step")
    axes.set_title(name, loc="left", fontsize=10.5)
    return figure(fig, f"{'Reward' if reward else 'Loss'} of {name} against steps")


def funnel(report: Mapping[str, Any]) -> Markup:
    """How many documents each rule of a corpus dropped."""
    dropped = report.get("dropped", {})
    reasons = sorted(dropped, key=lambda reason: dropped[reason].get("documents", 0))
    fig, axes = new_figure(7.2, 0.28 * len(reasons) + 0.9)
    counts = [dropped[reason]["documents"] for reason in reasons]
    bars = axes.barh(reasons, counts, color=PALETTE[0], height=0.65)
    axes.bar_label(bars, labels=[human_count(c) for c in counts], padding=4, fontsize=8.5)
    axes.set_xlabel("documents dropped")
    axes.grid(axis="y", visible=False)
    return figure(fig, "Documents dropped, by reason")


def corpus_note(report: Mapping[str, Any]) -> str:
    """What was read, and what is left to train on and to hold out."""
    parts = [
        f"{words} {human_bytes(report[part]['bytes'])} in {report[part]['documents']:,} documents"
        for part, words in (("read", "Read"), ("train", "kept for training"), ("validation", "held out"))
    ]
    return ", ".join(parts) + "."


def scores(rows: Scored, metrics: Sequence[str]) -> Markup:
    """Every model's headline scores with their intervals, one panel a metric."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(2.5 * len(metrics) + 0.4, 0.36 * len(rows) + 1.1), layout="constrained")
    panels = fig.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    names = [name for name, _, _ in rows]
    for panel, metric in zip(panels, metrics, strict=True):
        for index, (_, _, evaluation) in enumerate(rows):
            score = evaluation.metrics.get(metric)
            if score:
                low, high = score["value"] - score["low"], score["high"] - score["value"]
                error = [[max(low, 0)], [max(high, 0)]]
                panel.errorbar(score["value"], index, xerr=error, fmt="o", ms=5, capsize=3, color=PALETTE[index % 8])
        panel.set_title(metric.partition(".")[2].replace("_", " "), loc="left", fontsize=10)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(axis="x", color="#e3e6ec")
        panel.spines[["top", "right"]].set_visible(False)
    return figure(fig, "Scores of every model of this life, with 95% intervals")


def quality_against_size(rows: Scored) -> Markup:
    """Bits per byte (or pass@1) against the size of the weights."""
    metric = next((m for m in ("expressions.pass@1", "bits-per-byte.bits_per_byte") if m in rows[0][2].metrics), None)
    if metric is None:
        return Markup("")
    fig, axes = new_figure(5.6, 3.0)
    for index, (name, model, evaluation) in enumerate(rows):
        score = evaluation.metrics[metric]
        error = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
        size = weight_bytes(model) / 1e6
        axes.errorbar(size, score["value"], yerr=error, fmt="o", ms=6, capsize=3, color=PALETTE[index % 8], label=name)
    axes.set_xlim(left=0)
    axes.set_xlabel("weights, MB")
    axes.set_ylabel(metric.partition(".")[2].replace("_", " "))
    axes.legend(frameon=False)
    return figure(fig, "Quality against size")
