"""The end of a run on one screen: what was made, how good it is, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from foundling.core import progress
from foundling.core.artifacts import Artifact
from foundling.core.units import human_bytes, human_time

HEADLINES = (
    ("bits-per-byte.bits_per_byte", "bits/byte"),
    ("expressions.pass@1", "pass@1"),
    ("expressions.pass@8", "pass@8"),
    ("expressions.followed", "follows"),
    ("syntax.parses", "syntax"),
)


def print_summary(life: str, artifacts: Mapping[str, Artifact], planned_seconds: float) -> None:
    """Print the models with their scores, the time against the plan, and the next commands."""
    rows = scored_models(artifacts)
    if rows:
        table = Table(title=f"\nModels of {life}", title_justify="left", box=None, pad_edge=False)
        table.add_column("model")
        table.add_column("size", justify="right")
        measured = [(m, label) for m, label in HEADLINES if any(m in e.metrics for _, _, e in rows)]
        for _, label in measured:
            table.add_column(label, justify="right")
        for name, model, evaluation in rows:
            scores = [shown(evaluation.metrics.get(metric)) for metric, _ in measured]
            table.add_row(name, human_bytes(weight_bytes(model)), *scores)
        progress.console.print(table)
    took = sum(float(artifact.run.get("seconds", 0)) for artifact in artifacts.values())
    plan = f" (planned {human_time(planned_seconds)})" if planned_seconds else ""
    progress.console.print(f"\nEverything in this life took {human_time(took)}{plan}.")
    report = next((a for a in artifacts.values() if a.kind == "report"), None)
    if report is not None:
        progress.console.print(f"Report: {report.file('report.html')}")
    progress.console.print(
        "Next: [bold]foundling chat[/] · [bold]foundling serve[/] · [bold]foundling lineage[/] · "
        f"[bold]foundling run {life} --set sft.epochs=2[/]"
    )


def scored_models(artifacts: Mapping[str, Artifact]) -> list[tuple[str, Artifact, Artifact]]:
    """(stage name, model, its evaluation) for every model of a life that was evaluated, in order."""
    by_model = {a.inputs.get("model"): a for a in artifacts.values() if a.kind == "evaluation"}
    models = [(name, a) for name, a in artifacts.items() if a.kind in ("model", "adapter")]
    return [(name, model, by_model[model.key]) for name, model in models if model.key in by_model]


def weight_bytes(model: Artifact) -> int:
    """Bytes of a model's weights on disk."""
    files: dict[str, dict[str, Any]] = model.manifest["files"]
    return sum(int(entry["size"]) for name, entry in files.items() if name.endswith(".safetensors"))


def shown(metric: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A score with its 95% interval: "0.61 [0.57, 0.65]"."""
    if not metric:
        return "-"
    return f"{metric['value']:.{digits}f} [{metric['low']:.{digits - 1}f}, {metric['high']:.{digits - 1}f}]"
