"""Does the answer survive small changes of the question? Case, spacing, typos, and the order of the options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foundling.core.rng import numpy_rng
from foundling.evaluation.requests import Answer, Request
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.tasks.choices import Choices, Options

Change = Callable[[str, np.random.Generator], str]


def lower_case(text: str, rng: np.random.Generator) -> str:
    """All letters small."""
    return text.lower()


def extra_space(text: str, rng: np.random.Generator) -> str:
    """One space in ten doubled, at least one."""
    words = text.split(" ")
    if len(words) < 2:
        return text
    doubled = rng.random(len(words) - 1) < 0.1
    doubled[int(rng.integers(len(doubled)))] = True
    return words[0] + "".join(("  " if twice else " ") + word for twice, word in zip(doubled, words[1:], strict=True))


def typos(text: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters swapped in one word of ten, at least one; words of four letters and more."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:
        return text
    for index in rng.choice(long, size=max(1, len(long) // 10), replace=False):
        word, at = words[index], int(rng.integers(1, len(words[index]) - 2))
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


CHANGES: dict[str, Change] = {"lower case": lower_case, "extra space": extra_space, "typos": typos}
ORDER = "option order"


@dataclass(frozen=True)
class Perturbed:
    """A multiple-choice task asked again with changed questions.

    For each change: "same" is the share of items whose pick stays the same, "acc" the accuracy after it. "all right"
    is the share right under every change: what a user can rely on.
    """

    inner: Choices
    seed: int = 0

    @property
    def task(self) -> Task:
        """The inner task's name with "-perturbed"."""
        base = self.inner.task
        metrics = [Metric("acc"), Metric("all right")]
        metrics += [Metric(f"{what} ({name})") for name in (*CHANGES, ORDER) for what in ("same", "acc")]
        return Task(f"{base.name}-perturbed", base.version, tuple(metrics), base.settings)

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
        """Chance, for the accuracies."""
        chance = self.inner.references(items).get("acc", [])[:1]
        return {"acc": chance, **{f"acc ({name})": chance for name in (*CHANGES, ORDER)}}

    def _variants(self, item: Item) -> list[Item]:
        question, options = item.data
        found = [item]
        for name, change in CHANGES.items():
            rng = numpy_rng(self.seed, name, item.id)
            found.append(replace(item, data=(replace(question, prompt=change(question.prompt, rng)), options)))
        turned = Options(options.texts[::-1], tuple(len(options.texts) - 1 - i for i in options.right))
        return [*found, replace(item, data=(question, turned))]

    def _outcome(self, item: Item, answers: list[Answer]) -> Outcome:
        variants = self._variants(item)
        each = len(answers) // len(variants)
        graded = [
            self.inner.grade([variant], [answers[i * each : (i + 1) * each]])[0] for i, variant in enumerate(variants)
        ]
        picks = [o.sample["options"][o.sample["picked"]] for o in graded]
        metrics = {"acc": graded[0].metrics["acc"], "all right": float(all(o.metrics["acc"] == 1.0 for o in graded))}
        for name, outcome, pick in zip((*CHANGES, ORDER), graded[1:], picks[1:], strict=True):
            metrics |= {f"same ({name})": float(pick == picks[0]), f"acc ({name})": outcome.metrics["acc"]}
        sample = {"question": graded[0].sample["question"], "picks": picks}
        return Outcome(item.id, metrics, sample, item.slice)
