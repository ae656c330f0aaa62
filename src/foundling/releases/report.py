"""The stage `report`: one self-contained HTML page about a whole life."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from foundling.core.artifacts import Artifact, Draft
from foundling.core.config import Config, option
from foundling.core.environment import environment
from foundling.core.files import read_jsonl
from foundling.core.hardware import WATTS_PER_CORE, describe, threads
from foundling.core.report import Page, cards, code, details, graph, side_by_side, table, text
from foundling.core.stages import Inputs
from foundling.core.units import human_bytes, human_flops, human_time
from foundling.releases import figures
from foundling.releases.summary import HEADLINES, scored_models, shown, weight_bytes


class ReportConfig(Config):
    """What the report is about. The plan is shown beside what happened and does not make another report."""

    life: str = option(help="the life's name")
    recipe: str = option("", "the resolved recipe, as YAML")
    plan: dict[str, Any] = option({}, "the plan made before the run", affects_result=False)
    command: str = option("", "what was typed to make the life", affects_result=False)


def build(config: ReportConfig, inputs: Inputs, draft: Draft) -> None:
    """Write report.html from the manifests, logs and samples of a life's artifacts (one input per stage)."""
    artifacts = _in_plan_order(dict(inputs.items()), config.plan)
    page = Page(f"The life of {config.life}", _subtitle(artifacts))
    page.section("At a glance", _headlines(artifacts))
    _data_section(page, artifacts)
    _training_section(page, artifacts)
    _evaluation_section(page, artifacts)
    _compression_section(page, artifacts)
    page.section("Plan against actual", *_plan_table(artifacts, config.plan), note=PLAN_NOTE)
    page.section("Cost", _cost_table(artifacts), note=COST_NOTE)
    page.section("Lineage", _lineage(artifacts), note="Every artifact is found by the hash of what it was made from.")
    page.section("Reproduce", *_commands(config, artifacts))
    page.write(draft.file("report.html"))


TRAINING_NOTE = (
    "Loss on the batches, in nats a scored token; where a model learns from rewards, the mean reward of its answers."
)
EVALUATION_NOTE = (
    "Value and 95% interval (Wilson for shares, bootstrap otherwise), all models on the same held-out items. Bits per "
    "byte are of whole held-out documents, each from its beginning; what is tuned to answer becomes worse at them."
)
PLAN_NOTE = "The plan was made before the run, from this machine's measured rates."
COST_NOTE = (
    f"FLOPs are the model's own count (forward and backward). MFU is their rate over the measured matrix rate. Energy "
    f"assumes {WATTS_PER_CORE:.0f} W for each core in use, a typical share of a server's power; it is not measured."
)


def _in_plan_order(artifacts: Mapping[str, Artifact], plan: Mapping[str, Any]) -> dict[str, Artifact]:
    order = [stage["name"] for stage in plan.get("stages", [])]
    names = [name for name in order if name in artifacts] + [name for name in artifacts if name not in order]
    return {name: artifacts[name] for name in names}


def _subtitle(artifacts: Mapping[str, Artifact]) -> str:
    seconds = sum(float(a.run.get("seconds", 0)) for a in artifacts.values())
    return f"From raw text to a measured release in {human_time(seconds)}, on {describe()}."


def _headlines(artifacts: Mapping[str, Artifact]) -> Markup:
    values: dict[str, tuple[str, str]] = {}
    base = next((a.metrics for a in artifacts.values() if "validation_bits_per_byte" in a.metrics), None)
    if base is not None:
        beside = ", ".join(f"{name} {value:.2f}" for name, value in base["baseline_bits_per_byte"].items())
        values["bits per byte, held out"] = (f"{base['validation_bits_per_byte']:.3f}", beside)
    rows = scored_models(artifacts)
    for metric, label, _ in HEADLINES[1:3]:
        scored = [(name, e.metrics[metric]) for name, _, e in rows if metric in e.metrics]
        if scored:
            name, best = max(scored, key=lambda item: item[1]["value"])
            values[label] = (f"{best['value']:.3f}", f"{name}, 95% [{best['low']:.3f}, {best['high']:.3f}]")
    seconds = sum(float(a.run.get("seconds", 0)) for a in artifacts.values())
    values["time"] = (human_time(seconds), f"{len(artifacts)} stages")
    if rows:
        small = min((model for _, model, _ in rows), key=weight_bytes)
        values["smallest model"] = (human_bytes(weight_bytes(small)), f"of {human_bytes(weight_bytes(rows[0][1]))}")
    peak = max(float(a.run.get("peak_memory_bytes", 0)) for a in artifacts.values())
    values["peak memory"] = (human_bytes(peak), "resident, any stage")
    return cards(values)


def _data_section(page: Page, artifacts: Mapping[str, Artifact]) -> None:
    corpora = [a for a in artifacts.values() if a.kind == "corpus"]
    for corpus in corpora:
        report = json.loads(corpus.file("report.json").read_text(encoding="utf-8"))
        page.section("Corpus", figures.funnel(report), note=figures.corpus_note(report))
    numbers = [(name, a.metrics) for name, a in artifacts.items() if a.kind in ("tokenizer", "tokens")]
    rows = [(name, key.replace("_", " "), v) for name, metrics in numbers for key, v in metrics.items() if _plain(v)]
    if rows:
        page.section("Tokens", table(["stage", "number", "value"], rows))


def _training_section(page: Page, artifacts: Mapping[str, Artifact]) -> None:
    logs = {name: figures.training_log(a) for name, a in artifacts.items() if a.kind in ("model", "adapter")}
    logs = {name: log for name, log in logs.items() if log}
    if not logs:
        return
    blocks = [figures.loss_curve(name, log) for name, log in logs.items()]
    samples = [
        details(f"Samples of {name} through training", *[code(f"step {step}\n\n{sample}") for step, sample in found])
        for name, log in logs.items()
        if (found := figures.samples(log))
    ]
    page.section("Training", side_by_side(*blocks), *samples, note=TRAINING_NOTE)


def _evaluation_section(page: Page, artifacts: Mapping[str, Artifact]) -> None:
    rows = scored_models(artifacts)
    if not rows:
        return
    metrics = list(dict.fromkeys(metric for _, _, e in rows for metric in e.metrics))
    known = [(h.metric, h.label) for h in HEADLINES if h.metric in metrics]
    headlines = known or [(metric, metric) for metric in metrics[:3]]  # tasks of the user's own have no headline
    scores = [(name, *(shown(e.metrics.get(metric)) for metric, _ in headlines)) for name, _, e in rows]
    beside = [f"{label}: {found}" for metric, label in headlines if (found := _references(metric, rows))]
    names = [name for name, _, _ in rows]
    everything = [(metric, *(shown(e.metrics.get(metric)) for _, _, e in rows)) for metric in metrics]
    blocks = [
        table(["model", *(label for _, label in headlines)], scores),
        text("For reference: " + "; ".join(beside)) if beside else Markup(""),
        details("Every metric of every model", table(["metric", *names], everything)),
    ]
    evaluated = {e.key: name for name, _, e in rows}
    tests = [row for name, _, e in rows for row in _tests(name, e, evaluated)]
    if tests:
        head = ["model", "metric", "against", "its score", "own score", "difference", "p (Holm)", "items", "verdict"]
        main = next(
            m for m in ("expressions.pass@1", HEADLINES[0].metric, tests[0][1]) if any(m == row[1] for row in tests)
        )
        blocks.append(table(head, [row for row in tests if row[1] == main]))
        blocks.append(details("Paired tests of every metric", table(head, tests)))
    plot = figures.scores(rows, [metric for metric, _ in headlines])
    page.section("Evaluation", plot, *blocks, *_answers(rows), note=EVALUATION_NOTE)


def _references(metric: str, rows: list[tuple[str, Artifact, Artifact]]) -> str:
    found = {r["name"]: r["value"] for _, _, e in rows for r in e.metrics.get(metric, {}).get("reference", [])}
    return ", ".join(f"{name} {value:.3g}" for name, value in found.items())


def _tests(name: str, evaluation: Artifact, evaluated: Mapping[str, str]) -> list[tuple[Any, ...]]:
    """Rows of paired tests. `evaluated` has the models' names by the key of their evaluation."""
    results = json.loads(evaluation.file("results.json").read_text(encoding="utf-8"))
    other = evaluated.get(evaluation.inputs.get("against", ""), "another life's")
    numbers = ("a", "b", "difference", "p_adjusted", "n", "verdict")
    return [
        (name, f"{c['task']}.{c['metric']}", other, *(c[field] for field in numbers))
        for c in results.get("against", [])
    ]


def _answers(rows: list[tuple[str, Artifact, Artifact]], most: int = 12) -> list[Markup]:
    blocks = []
    for name, _, evaluation in rows:
        kept = read_jsonl(evaluation.file("samples.jsonl"))
        chosen = [row for row in kept if row["task"] == "expressions"][:most]
        answers = [[row["sample"][field] for field in ("instruction", "answer", "verdict")] for row in chosen]
        if answers:
            blocks.append(details(f"Answers of {name}", table(["instruction", "answer", "verdict"], answers)))
    return blocks


def _compression_section(page: Page, artifacts: Mapping[str, Artifact]) -> None:
    rows = scored_models(artifacts)
    compressed = [(name, a) for name, a in artifacts.items() if a.stage == "compress"]
    if not compressed:
        return
    originals = {a.inputs["model"] for _, a in compressed}
    shown_rows = [(n, m, e) for n, m, e in rows if m.key in originals or m.stage == "compress"]
    speeds = {a.key: a.run.get("decode_tokens_per_second", {}).get("compressed") for _, a in compressed}
    speeds |= {a.inputs["model"]: a.run.get("decode_tokens_per_second", {}).get("original") for _, a in compressed}
    body = []
    for name, model, evaluation in shown_rows:
        scores = [shown(evaluation.metrics.get(headline.metric)) for headline in HEADLINES[:2]]
        kl = model.metrics.get("kl_bits_per_token", {}).get("value")
        speed = speeds.get(model.key)
        row = (name, human_bytes(weight_bytes(model)), *scores, kl, f"{speed:.0f}" if speed else "-")
        body.append(row)
    head = [
        "model",
        "weights",
        *(headline.label for headline in HEADLINES[:2]),
        "KL to original, bits/token",
        "decode tokens/s",
    ]
    page.section("Compression", figures.quality_against_size(shown_rows), table(head, body))


def _plan_table(artifacts: Mapping[str, Artifact], plan: Mapping[str, Any]) -> list[Markup]:
    planned = {stage["name"]: stage for stage in plan.get("stages", [])}
    rows = []
    for name, artifact in artifacts.items():
        guess = planned.get(name, {})
        run = artifact.run
        rows.append(
            (
                name,
                artifact.stage,
                human_time(guess["seconds"]) if guess else "-",
                human_time(float(run.get("seconds", 0))),
                human_bytes(guess["memory"]) if guess else "-",
                human_bytes(float(run.get("peak_memory_bytes", 0))),
                human_bytes(guess["disk"]) if guess else "-",
                human_bytes(artifact.size),
            )
        )
    head = ["stage", "verb", "time: plan", "actual", "memory: plan", "actual", "disk: plan", "actual"]
    return [table(head, rows)]


def _cost_table(artifacts: Mapping[str, Artifact]) -> Markup:
    rows = []
    for name, artifact in artifacts.items():
        run = artifact.run
        seconds = float(run.get("seconds", 0))
        flops, mfu = artifact.metrics.get("training_flops"), run.get("mfu")
        speed = run.get("tokens_per_s")
        rows.append(
            (
                name,
                human_time(seconds),
                human_flops(flops) if flops else "-",
                f"{speed:.0f}" if speed else "-",
                f"{100 * mfu:.1f}%" if mfu else "-",
                f"{_watt_hours(seconds):.2f}",
            )
        )
    seconds = sum(float(artifact.run.get("seconds", 0)) for artifact in artifacts.values())
    flops = sum(float(artifact.metrics.get("training_flops", 0)) for artifact in artifacts.values())
    rows.append(("total", human_time(seconds), human_flops(flops), "-", "-", f"{_watt_hours(seconds):.2f}"))
    return table(["stage", "time", "FLOPs", "tokens/s", "MFU", "energy, Wh (estimate)"], rows)


def _watt_hours(seconds: float) -> float:
    return seconds * WATTS_PER_CORE * threads() / 3600


def _lineage(artifacts: Mapping[str, Artifact]) -> Markup:
    names = {artifact.key: name for name, artifact in artifacts.items()}
    nodes = {name: (name, f"{a.kind} {a.key[:8]}") for name, a in artifacts.items()}
    edges = [(names[key], name) for name, a in artifacts.items() for key in a.inputs.values() if key in names]
    return graph(nodes, edges, "Which artifact was made from which")


def _commands(config: ReportConfig, artifacts: Mapping[str, Artifact]) -> list[Markup]:
    versions = ", ".join(f"{name} {version}" for name, version in environment().items())
    last = [name for name, a in artifacts.items() if a.kind == "model"][-1:]
    use = f"foundling chat {config.life}/{last[0]}\nfoundling serve {config.life}/{last[0]}" if last else ""
    commands = (
        f"{config.command or f'foundling run {config.life}'}\nfoundling verify\nfoundling lineage {config.life}\n{use}"
    )
    keys = "\n".join(f"{name:<22} {a.kind:<11} {a.key}" for name, a in artifacts.items())
    return [
        code(commands),
        details("The resolved recipe", code(config.recipe)),
        details("Keys", code(keys)),
        details("Versions", code(versions)),
    ]


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)
