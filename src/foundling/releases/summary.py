"""The end of a run on one screen: what was made, how good it is, and what to type next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from foundling.core import progress
from foundling.core.artifacts import Artifact
from foundling.core.units import human_bytes, human_time
from foundling.models.locate import DRAFT_HEAD


class Headline(NamedTuple):
    """A score that the summary and the report begin with."""

    metric: str
    label: str
    meaning: str


HEADLINES = (
    Headline("bits-per-byte.bits_per_byte", "bits/byte", "to encode held-out text; less is better"),
    Headline("expressions.pass@1", "pass@1", "held-out instructions answered right, checked by running the answer"),
    Headline("expressions.pass@8", "pass@8", "those answered right at least once in eight samples"),
    Headline("expressions.followed", "in form", "answers that are one expression and nothing else, as was asked"),
    Headline("syntax.parses", "parses", "sampled continuations of held-out files that are valid Python"),
)
WIDE = 110  # columns in which a score and its interval fit beside each other


def print_models(life: str, artifacts: Mapping[str, Artifact]) -> None:
    """Print every evaluated model of a life with its headline scores, and what these mean."""
    rows = scored_models(artifacts)
    headlines = [h for h in HEADLINES if any(h.metric in evaluation.metrics for _, _, evaluation in rows)]
    if not headlines:
        return
    wide = progress.console.width >= WIDE
    table = Table(title=f"\nModels of {life}", title_justify="left", box=None, pad_edge=False)
    table.add_column("model")
    for label in ("size", *(headline.label for headline in headlines)):
        table.add_column(label, justify="right")
    for name, model, evaluation in rows:
        scores = [shown(evaluation.metrics.get(headline.metric)) for headline in headlines]
        cells = scores if wide else [score.replace(" [", "\n[") for score in scores]
        table.add_row(name, human_bytes(weight_bytes(model)), *map(escape, cells))
    progress.console.print(table)
    for headline in headlines:
        progress.console.print(f"[dim]  {headline.label:<10} {headline.meaning}[/]")
    progress.console.print("[dim]  In brackets: the 95% interval.[/]")


def print_scores(evaluation: Artifact) -> None:
    """Print every score of one evaluation with its interval, its items and what to read it against."""
    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    table.add_column("value, 95% interval", justify="right")
    table.add_column("items", justify="right")
    table.add_column("for reference")
    for name, metric in evaluation.metrics.items():
        better = "" if metric["higher_is_better"] else " (less is better)"
        beside = ", ".join(f"{r['name']} {r['value']:.3g}" for r in metric["reference"])
        table.add_row(name + better, escape(shown(metric)), str(metric["n"]), escape(beside))
    progress.console.print(table)


def print_end(
    artifacts: Mapping[str, Artifact], made: Collection[str], planned_seconds: float, command: str, where: str
) -> None:
    """Print the time against the plan, the report's path, and the commands to try next.

    Args:
        made: names of the stages that this run did not find in the store.
        command: what was typed, to be typed again with a change.
        where: the flag that names the store, if one was given.
    """
    say = progress.console.print
    took = {name: float(artifact.run.get("seconds", 0)) for name, artifact in artifacts.items()}
    now, whole = sum(took[name] for name in made), human_time(sum(took.values()))
    if made:
        say(f"\nThis run took {human_time(now)} (planned {human_time(planned_seconds)}), the whole life {whole}.")
    else:
        say(f"\nEverything was there already; it once took {whole}.")
    for artifact in artifacts.values():
        if artifact.kind == "report" and (artifact.path / "report.html").is_file():
            say(f"Report: {artifact.file('report.html').resolve()}", soft_wrap=True)
    change = "sft.epochs=2" if "sft" in artifacts else "seed=1"
    say("Next:")
    for verb, what in (
        ("chat", "talk to the last model"),
        ("serve", "the same behind an OpenAI-compatible URL"),
        ("lineage", "what it was made from"),
    ):
        say(f"  [bold]foundling {verb}{where}[/]  [dim]{what}[/]", soft_wrap=True)
    again = escape(f"{command} --set {change}{where}")
    say(f"  [bold]{again}[/]  [dim]runs again only what this changes[/]", soft_wrap=True)


def scored_models(artifacts: Mapping[str, Artifact]) -> list[tuple[str, Artifact, Artifact]]:
    """(stage name, model, its evaluation) for every model of a life that was evaluated, in order."""
    by_model = {a.inputs.get("model"): a for a in artifacts.values() if a.kind == "evaluation"}
    models = [(name, a) for name, a in artifacts.items() if a.kind in ("model", "adapter")]
    return [(name, model, by_model[model.key]) for name, model in models if model.key in by_model]


def weight_bytes(model: Artifact) -> int:
    """Bytes of a model's weights on disk."""
    files: dict[str, dict[str, Any]] = model.manifest["files"]
    weights = [name for name in files if name.endswith(".safetensors") and name != DRAFT_HEAD]
    return sum(int(files[name]["size"]) for name in weights)


def shown(metric: Mapping[str, Any] | None) -> str:
    """A score with its 95% interval: "0.612 [0.572, 0.651]"."""
    if not metric:
        return "-"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
