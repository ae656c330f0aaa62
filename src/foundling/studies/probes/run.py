"""Train each design on each probing task; report accuracy on fresh data, against the length where that matters."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foundling.core import progress
from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError, nearest
from foundling.core.hardware import device
from foundling.core.rng import numpy_rng
from foundling.core.stages import Inputs
from foundling.models.build import build
from foundling.studies.config import ProbesConfig
from foundling.studies.probes.designs import probe_model
from foundling.studies.probes.plots import plot
from foundling.studies.probes.tasks import TASKS, Task
from foundling.studies.probes.translation import (
    DESIGNS,
    LONGEST,
    STEPS,
    TEST_LENGTHS,
    WORDS,
    Translation,
    accuracy_by_length,
    translator,
)
from foundling.training.batch import Batch
from foundling.training.config import TrainingConfig
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum, Objective
from foundling.training.trainer import Trainer

TRANSLATION = "translation"
TEST_TOKENS = 1 << 16  # tokens of one forward pass in tests


class Probe:
    """A synthetic task as an objective: fresh rows at every step."""

    def __init__(self, task: Task, batch_size: int, seed: int) -> None:
        self.task, self.batch_size, self.seed = task, batch_size, seed

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Rows of the training length."""
        return draw(self.task, (self.seed, "probe", step), self.batch_size, self.task.train_time)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy of the counted targets, in nats."""
        return next_token_loss(model, batch)


def draw(task: Task, seed: tuple[object, ...], rows: int, time: int) -> Batch:
    """Rows of a task."""
    tokens, targets, counted = (torch.from_numpy(part) for part in task.draw(numpy_rng(*seed), rows, time))
    return Batch(tokens, targets, counted.float())


def probe_architectures(config: ProbesConfig, inputs: Inputs, draft: Draft) -> None:
    """Write results.json, report.md and a plot of each task.

    Raises:
        FoundlingError: an unknown task.
    """
    known = [*TASKS, TRANSLATION]
    for task in config.tasks:
        if task not in known:
            raise FoundlingError(
                f"probing task {task!r} is not known", f"known: {', '.join(known)}", nearest(task, known)
            )
    jobs = [(task, design) for task in config.tasks for design in _designs(task)]
    results: dict[str, dict[str, Any]] = {task: {} for task in config.tasks}
    with progress.task("probe architectures", len(jobs), "trainings") as bar:
        for task, design in jobs:
            runs = [_run(task, design, seed, config, draft.scratch) for seed in _seeds(config)]
            results[task][design] = {time: _summary([run[time] for run in runs]) for time in runs[0]}
            bar.advance(1, accuracy=next(iter(results[task][design].values()))["mean"])
    report = {"config": config.model_dump(mode="json"), "accuracy": results}
    (draft.path / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (draft.path / "report.md").write_text("\n".join(_tables(results, config)), encoding="utf-8")
    for task, found in results.items():
        plot(found, task, chance_of(task), draft.path / f"{task}.png")
    draft.metrics |= {
        task: {d: r[max(r, key=int)]["mean"] for d, r in found.items()} for task, found in results.items()
    }


def chance_of(task: str) -> float:
    """Accuracy of guessing."""
    return 1 / WORDS if task == TRANSLATION else TASKS[task].chance


def _designs(task: str) -> tuple[str, ...]:
    return tuple(DESIGNS) if task == TRANSLATION else TASKS[task].designs


def _seeds(config: ProbesConfig) -> range:
    return range(config.seed, config.seed + config.seeds)


def _run(task: str, design: str, seed: int, config: ProbesConfig, scratch: Path) -> dict[str, float]:
    """Accuracy by length. What is done is kept in `scratch` and not done again."""
    folder = scratch / task / f"{design}-{seed}".replace(" ", "-")
    done = folder / "done.json"
    if done.is_file():
        found: dict[str, float] = json.loads(done.read_text(encoding="utf-8"))
        return found
    folder.mkdir(parents=True, exist_ok=True)
    module, objective, evaluate = _setting(task, design, seed, config)
    options = TrainingConfig(
        seed=seed,
        steps=config.steps or (STEPS if task == TRANSLATION else TASKS[task].steps),
        batch_size=config.batch_size,
        context=LONGEST if task == TRANSLATION else TASKS[task].train_time,
        learning_rate=config.learning_rate,
        matrix_learning_rate=config.matrix_learning_rate,
        precision="fp32",
    )
    trainer = Trainer(
        module,
        objective,
        options,
        folder,
        log=folder / "training.log.jsonl",
        evaluate=evaluate,
        title=f"{task} {design}",
    )
    result = trainer.fit().evaluation
    done.write_text(json.dumps(result), encoding="utf-8")
    return result


def _setting(
    task: str, design: str, seed: int, config: ProbesConfig
) -> tuple[nn.Module, Objective, Callable[[nn.Module], dict[str, float]]]:
    rows = config.test_rows
    if task == TRANSLATION:
        return (
            translator(design, config.dim, seed).to(device()),
            Translation(config.batch_size, seed),
            lambda module: accuracy_by_length(module, rows),
        )
    kind = TASKS[task]
    shape = probe_model(design, config.dim, config.layers, kind.vocab_size, max(kind.test_times))
    return (
        build(shape, seed).to(device()),
        Probe(kind, config.batch_size, seed),
        lambda module: {str(time): accuracy(module, kind, time, rows) for time in kind.test_times},
    )


def accuracy(module: Any, task: Task, time: int, rows: int) -> float:
    """Part of the counted targets that are the likeliest prediction, on fresh rows of a length."""
    batch = draw(task, ("probe test", time), rows, time).to(next(module.parameters()).device)
    right = total = 0.0
    for part in batch.split(max(1, TEST_TOKENS // time)):
        counted = part.loss_mask.bool()
        guess = module.head(module.hidden(part.tokens)[counted]).argmax(-1)
        right += float((guess == part.targets[counted]).sum())
        total += float(counted.sum())
    return right / total


def _summary(values: list[float]) -> dict[str, Any]:
    return {"mean": statistics.fmean(values), "low": min(values), "high": max(values), "values": values}


def _tables(results: dict[str, dict[str, Any]], config: ProbesConfig) -> Iterator[str]:
    """Markdown: a table of each task; mean accuracy, and the range over seeds where they differ."""
    for task, found in results.items():
        about = f"translate {TEST_LENGTHS[0]} to {TEST_LENGTHS[-1]} words" if task == TRANSLATION else TASKS[task].about
        yield f"### {task.replace('_', ' ')}: {about}\n"
        times = list(next(iter(found.values())))
        yield "| design | " + " | ".join(times) + " |\n|---|" + "---|" * len(times)
        for design, by_time in found.items():
            yield f"| {design} | " + " | ".join(_cell(by_time[time]) for time in times) + " |"
        seeds = "one seed" if config.seeds == 1 else f"{config.seeds} seeds (lowest–highest)"
        yield f"\nAccuracy by length, {seeds}; chance {chance_of(task):.2f}.\n"


def _cell(score: dict[str, Any]) -> str:
    low, high = f"{score['low']:.2f}", f"{score['high']:.2f}"
    return f"{score['mean']:.2f}" if low == high else f"{score['mean']:.2f} ({low}–{high})"
