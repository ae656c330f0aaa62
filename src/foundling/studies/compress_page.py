"""The page of a search for a compressed model: size against quality, what each way costs to run, what broke most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundling.core.artifacts import Artifact
from foundling.core.hardware import describe
from foundling.core.report import Page, cards, figure, new_figure, table
from foundling.core.units import human_bytes
from foundling.studies.compress_config import CompressSearchConfig

if TYPE_CHECKING:
    from foundling.studies.compress_search import Answers, Candidate, Search

WORST = 10


def write_page(result: Search, model: Artifact, config: CompressSearchConfig, path: Path) -> None:
    """One self-contained HTML page."""
    wanted = ", ".join(config.target)
    page = Page("Compression", f"{model.kind} {model.key}, to meet {wanted}. {describe()}.")
    chosen = result.chosen
    if chosen is not None:
        ratio = chosen.artifact.metrics["original_bytes"] / chosen.size
        headline = {
            "chosen": (chosen.name, f"model {chosen.artifact.key}"),
            "size": (
                human_bytes(chosen.size),
                f"{ratio:.1f} times smaller" if ratio > 1 else f"{1 / ratio:.1f} times larger",
            ),
            "quality": (f"{chosen.quality['value']:.2%}", "bits of held-out text, original over compressed"),
            "decode": (f"{chosen.decode:.0f}/s", f"{chosen.speedup:.2f} times the original's"),
        }
        page.section("The choice", cards(headline))
    else:
        page.section("The choice", "No way meets every target.")
    page.section(
        "Size and quality", _plot(result), _table(result, config), note="* nothing else is better in all three"
    )
    if result.skipped:
        page.section("Not tried", table(["way", "why"], list(result.skipped.items())))
    if result.answers:
        page.section(
            "Answers that changed",
            _changes(result.answers),
            note="of the chosen model, item by item; what lost most first",
        )
    worst = chosen or max(result.candidates, key=lambda c: c.quality["value"])
    page.section(f"What broke most: layers of {worst.name}", _layers(worst))
    page.write(path)


def _plot(result: Search) -> str:
    fig, axes = new_figure(7.2, 3.8)
    front = sorted((c for c in result.candidates if c.name in result.frontier), key=lambda c: c.size)
    axes.plot([c.size / 1e6 for c in front], [100 * c.quality["value"] for c in front], color="#8a8f98", linewidth=1)
    for number, c in enumerate(result.candidates, 1):
        chosen = result.chosen is not None and c.name == result.chosen.name
        low, high = ([abs(100 * (c.quality["value"] - c.quality[end]))] for end in ("low", "high"))
        at = (c.size / 1e6, 100 * c.quality["value"])
        colour = "#d9722e" if chosen else "#3557c2"
        axes.errorbar(*at, yerr=[low, high], fmt="o", color=colour, capsize=3, markersize=8 if chosen else 5)
        axes.annotate(str(number), at, xytext=(5, 4), textcoords="offset points", fontsize=9, color=colour)
    axes.set_xlabel("weights, MB")
    axes.set_ylabel("quality kept, %")
    return figure(fig, "Size and quality with 95% intervals, numbered as below; the line joins what nothing beats")


def _table(result: Search, config: CompressSearchConfig) -> str:
    columns = [
        "",
        "way",
        "size",
        "in memory",
        "quality %",
        "KL bits/token",
        "same token %",
        "decode/s",
        "prefill/s",
        "per 1M tokens",
        "Wh",
    ]
    rows = []
    for number, c in enumerate(result.candidates, 1):
        seconds = 1e6 / c.decode  # of a million decoded tokens, one sequence at a time
        metrics: dict[str, Any] = c.artifact.metrics
        rows.append(
            (
                number,
                f"{c.name} *" if c.name in result.frontier else c.name,
                human_bytes(c.size),
                human_bytes(metrics["memory_bytes"]) if "memory_bytes" in metrics else "",
                round(100 * c.quality["value"], 2),
                metrics["kl_bits_per_token"]["value"],
                round(100 * metrics["same_next_token"]["value"], 2),
                f"{c.decode:,.0f}",
                f"{c.prefill:,.0f}",
                round(seconds / 3600 * config.price_per_hour, 3),
                round(seconds / 3600 * config.watts, 1),
            )
        )
    return table(columns, rows)


def _changes(answers: Sequence[Answers]) -> str:
    rows = []
    for said in answers:
        c = said.scores
        shown = f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]"
        rows.append((c.task, c.metric, c.a, c.b, shown, f"{c.p_adjusted:.3g}", c.verdict, said.changed, c.n))
    columns = [
        "task",
        "metric",
        "original",
        "compressed",
        "difference [95%]",
        "p (Holm)",
        "verdict",
        "changed",
        "items",
    ]
    return table(columns, rows)


def _layers(candidate: Candidate) -> str:
    layers = json.loads(candidate.artifact.file("compression.json").read_text())["layers"]
    order = sorted(layers, key=lambda layer: layer.get("output_error", layer["weight_error"]), reverse=True)
    rows = [
        (layer["layer"], layer["bits"], layer["weight_error"], layer.get("output_error", ""), layer.get("zeros", 0.0))
        for layer in order[:WORST]
    ]
    return table(["layer", "bits", "error of the weights", "error of its outputs", "zeros"], rows)
