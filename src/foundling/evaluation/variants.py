"""A task asked again with changed questions: does the answer survive, and what does an instruction change?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from foundling.core.rng import numpy_rng
from foundling.evaluation.requests import Answer, Request
from foundling.evaluation.task import Evaluable, Item, Metric, Outcome, Reference, Task, Value

Change = Callable[[Item, np.random.Generator], Item]


def of_prompt(change: Callable[[str, np.random.Generator], str]) -> Change:
    """The change of an item that a change of its question's text makes. Items' data begin with their Question."""

    def changed(item: Item, rng: np.random.Generator) -> Item:
        question, *rest = item.data
        return replace(item, data=(replace(question, prompt=change(question.prompt, rng)), *rest))

    return changed


def of_text(change: Callable[[str], str]) -> Change:
    """`of_prompt` of a change that draws nothing."""
    return of_prompt(lambda text, rng: change(text))


@dataclass(frozen=True)
class Variants:
    """`inner` and the same items under each change.

    Every metric that is followed is measured plain, under each change, and, where it is yes or no, under all of them at
    once ("every change"): what a user can rely on.

    Args:
        inner: a task whose items' data begin with their Question and whose samples have a "pick".
        suffix: joined to the task's name.
        follow: the inner task's metrics to measure under each change.
        compare_picks: also measure how often the pick stays the same ("same").
    """

    inner: Evaluable
    suffix: str
    changes: Mapping[str, Change]
    follow: tuple[str, ...]
    compare_picks: bool = False
    seed: int = 0
    _kinds: dict[str, Metric] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kinds", {m.name: m for m in self.inner.task.metrics if m.name in self.follow})

    @property
    def task(self) -> Task:
        """The inner task's name with the suffix."""
        base, metrics = self.inner.task, []
        for metric in self._kinds.values():
            every = [f"{metric.name} (every change)"] if metric.kind == "share" else []
            names = [metric.name, *(f"{metric.name} ({change})" for change in self.changes), *every]
            metrics += [replace(metric, name=name) for name in names]
        if self.compare_picks:
            metrics += [Metric(f"same ({change})") for change in self.changes]
        return Task(f"{base.name}-{self.suffix}", base.version, tuple(metrics), base.settings)

    def items(self) -> Sequence[Item]:
        """The inner task's."""
        return self.inner.items()

    def requests(self, item: Item) -> Sequence[Request]:
        """The inner task's requests for the original and for each change."""
        return [request for changed in self._variants(item) for request in self.inner.requests(changed)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Grades every variant by the inner task and compares the picks."""
        return [self._outcome(item, list(mine)) for item, mine in zip(items, answers, strict=True)]

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """The inner task's, beside each change too."""
        found = {name: beside for name, beside in self.inner.references(items).items() if name in self._kinds}
        return found | {f"{name} ({change})": beside for name, beside in found.items() for change in self.changes}

    def _variants(self, item: Item) -> list[Item]:
        return [item, *(change(item, numpy_rng(self.seed, name, item.id)) for name, change in self.changes.items())]

    def _outcome(self, item: Item, answers: list[Answer]) -> Outcome:
        variants = self._variants(item)
        each = len(answers) // len(variants)
        plain, *changed = (
            self.inner.grade([variant], [answers[i * each : (i + 1) * each]])[0] for i, variant in enumerate(variants)
        )
        metrics: dict[str, Value] = {}
        for name, metric in self._kinds.items():
            if name not in plain.metrics:
                continue
            metrics[name] = plain.metrics[name]
            metrics |= {f"{name} ({c})": o.metrics[name] for c, o in zip(self.changes, changed, strict=True)}
            if metric.kind == "share":
                metrics[f"{name} (every change)"] = float(all(o.metrics[name] == 1.0 for o in (plain, *changed)))
        picks = [outcome.sample["pick"] for outcome in (plain, *changed)]
        if self.compare_picks:
            same = zip(self.changes, picks[1:], strict=True)
            metrics |= {f"same ({c})": float(pick == picks[0]) for c, pick in same}
        kept = ("question", "answer", "pick")
        sample = {key: plain.sample[key] for key in kept if key in plain.sample}
        sample["changed"] = {
            c: {key: o.sample[key] for key in kept if key in o.sample}
            for c, o in zip(self.changes, changed, strict=True)
        }
        flags = tuple(dict.fromkeys(flag for outcome in (plain, *changed) for flag in outcome.flags))
        return Outcome(item.id, metrics, sample, item.slice, flags)
