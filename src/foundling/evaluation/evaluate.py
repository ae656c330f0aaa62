"""The stage `evaluate`: a model in, scores with intervals and every sample out.

    results.json    every score with interval, n and reference; how the model was asked; comparison with `against`
    samples.jsonl   one line per item: its outcome and what the model answered
    timings.json    seconds of each task, and money where prices are given

Every answer is saved in the draft's scratch as it comes, so a killed evaluation goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.evaluation.answering import LocalAnswerer
from foundling.evaluation.calibration import calibration_summary, confidences, seed_variance
from foundling.evaluation.compare import compare_outcomes
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.contamination import split_scores, training_words
from foundling.evaluation.remote_answering import RemoteAnswerer
from foundling.evaluation.requests import Answerer
from foundling.evaluation.running import run_task
from foundling.evaluation.scores import (
    FORMAT,
    RESULTS,
    SAMPLES,
    outcome_line,
    read_outcomes,
    read_results,
    summarise,
)
from foundling.evaluation.task import Evaluable, Item, Outcome
from foundling.evaluation.tasks.generation import Generation
from foundling.evaluation.tasks.registry import make_tasks
from foundling.inference.model import load
from foundling.inference.remote import connect
from foundling.models.cost import n_parameters


def build(config: EvaluateConfig, inputs: Inputs, draft: Draft) -> None:
    """Run the stage. Tasks are made, and so their data checked, before the model is loaded."""
    tasks = make_tasks(config, inputs.get("corpus"))
    prepared = [(task, _limited(task, config)) for task in tasks]
    answerer, about = _answerer(config, inputs)
    outcomes, timings = {}, {}
    for task, items in prepared:
        started = time.monotonic()
        name = task.task.name
        saved = draft.scratch / f"{name}.samples.jsonl"
        outcomes[name] = run_task(task, items, answerer, config.block, saved)
        timings[name] = _cost(config, time.monotonic() - started, outcomes[name])
    results: dict[str, Any] = {
        "format": FORMAT,
        "model": about,
        "tasks": {task.task.name: summarise(task, outcomes[task.task.name], config.seed) for task, _ in prepared},
    }
    for task, _ in prepared:
        _add_analyses(config, inputs, task, outcomes[task.task.name], results["tasks"][task.task.name])
    against = inputs.get("against")
    if against is not None:
        results["against"] = _compared(against, results, outcomes)
    _write(draft, results, outcomes, timings)


def _answerer(config: EvaluateConfig, inputs: Inputs) -> tuple[Answerer, dict[str, Any]]:
    """What answers, and what the result says of it."""
    artifact = inputs.get("model")
    if (artifact is None) == (config.url is None):
        raise FoundlingError("an evaluation needs either a model or a `url`", "it was given both or neither")
    if artifact is None:
        remote = connect(str(config.url))
        return RemoteAnswerer(remote), {"url": config.url, "name": remote.engine.model}
    import torch

    model = load(artifact.path, dtype=getattr(torch, config.dtype))
    module = model.module.config
    most = module.max_positions
    context = min(most, config.bits_per_byte.context or most)
    answerer = LocalAnswerer(model.engine, model.tokenizer, most, context, config.bits_per_byte.window_context)
    return answerer, {"family": module.family, "parameters": n_parameters(module), "dtype": config.dtype}


def _cost(config: EvaluateConfig, seconds: float, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Seconds, and money where prices are known; an evaluation that was broken off counts its last part only."""
    found: dict[str, Any] = {"seconds": round(seconds, 3)}
    if config.price_per_hour is not None:
        found["money"] = config.price_per_hour * seconds / 3600
    if config.price_per_million is not None:
        read, written = (sum(outcome.tokens[side] for outcome in outcomes) for side in (0, 1))
        price_read, price_written = config.price_per_million
        found["money"] = found.get("money", 0.0) + (read * price_read + written * price_written) / 1e6
    return found


def _add_analyses(
    config: EvaluateConfig, inputs: Inputs, task: Evaluable, outcomes: list[Outcome], summary: dict[str, Any]
) -> None:
    """What is known of all items together: calibration, spread between seeds, scores on contaminated and clean ones."""
    if isinstance(task, Generation):
        for name, value in task.corpus_scores(outcomes).items():
            summary["metrics"][name]["reference"].append({"name": "as one corpus", "value": value})
    sure, right = confidences(outcomes)
    if sure:
        summary["calibration"] = calibration_summary(sure, right)
    variance = seed_variance(outcomes)
    if variance is not None:
        summary["seed_variance"] = variance
    corpus = inputs.get("corpus")
    if config.contamination:
        if corpus is None:
            raise FoundlingError("`contamination` needs the corpus that the model was trained on", "none was given")
        summary["contamination"] = split_scores(task.task, outcomes, training_words(corpus), config.seed)


def _limited(task: Evaluable, config: EvaluateConfig) -> Sequence[Item]:
    items = task.items()[: config.limit]
    assert len({item.id for item in items}) == len(items), f"{task.task.name} has items with the same id"
    return items


def _compared(against: Artifact, results: dict[str, Any], outcomes: dict[str, list[Outcome]]) -> list[dict[str, Any]]:
    mine = {task: {outcome.id: outcome for outcome in found} for task, found in outcomes.items()}
    return [asdict(c) for c in compare_outcomes(read_results(against), read_outcomes(against), results, mine)]


def _write(draft: Draft, results: dict[str, Any], outcomes: dict[str, list[Outcome]], timings: dict[str, Any]) -> None:
    text = json.dumps(results, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False)
    draft.file(RESULTS).write_text(text + "\n", encoding="utf-8")
    with draft.file(SAMPLES).open("w", encoding="utf-8") as samples:
        for task, found in outcomes.items():
            samples.writelines(outcome_line(task, outcome) for outcome in found)
    draft.file("timings.json").write_text(json.dumps(timings, indent=2) + "\n", encoding="utf-8")
    for task, summary in results["tasks"].items():
        for name, metric in summary["metrics"].items():
            kept = {key: metric[key] for key in ("value", "low", "high", "n", "higher_is_better", "reference")}
            draft.metrics[f"{task}.{name}"] = kept
