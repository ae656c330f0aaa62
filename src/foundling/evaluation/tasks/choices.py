"""Multiple choice by likelihood: which continuation of a context (or which context of a continuation) is likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foundling.core.errors import FoundlingError
from foundling.evaluation.prompting import Question, questions
from foundling.evaluation.requests import Answer, Loglikelihood, LoglikelihoodAnswer, Request
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.task_file import TaskFile
from foundling.evaluation.templates import evaluate, render


@dataclass(frozen=True)
class Options:
    """The options of a question and the indices of the right ones."""

    texts: tuple[str, ...]
    right: tuple[int, ...]

    @property
    def first_right(self) -> str:
        """The right answer that a worked example shows."""
        return self.texts[self.right[0]]


@dataclass(frozen=True)
class Choices:
    """A task file of kind `choices`. `chat`: the question is put through the chat template."""

    spec: TaskFile
    folder: Path
    chat: bool = False

    @property
    def task(self) -> Task:
        """Name, metrics, settings. Yes/no metrics get Wilson intervals, masses and Brier scores a bootstrap."""
        good = self.spec.higher_is_better
        metrics = tuple(
            Metric(name, "share" if name.startswith("acc") else "mean", good != (name == "brier"))
            for name in self.spec.metrics
        )
        settings = {"kind": "choices", "chat": self.chat, "shots": self.spec.shots.count, "data": self.spec.data.file}
        return Task(self.spec.name, self.spec.version, metrics, settings)

    @cached_property
    def _items(self) -> list[Item]:
        asked = questions(self.spec, self.folder, lambda row: self._options(row).first_right)
        return [Item(item.id, (question, self._options(question.row)), item.slice) for item, question in asked]

    def items(self) -> Sequence[Item]:
        """One per row; data is the question and its options."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """One log-likelihood per option, and one without context per option for acc_mutual_info."""
        question, options = item.data
        conditional = [Loglikelihood(*self._pair(question, option)) for option in options.texts]
        if "acc_mutual_info" not in self.spec.metrics:
            return conditional
        return [*conditional, *(Loglikelihood("", pair.continuation) for pair in conditional)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Accuracy by each normalisation; the options' probabilities are kept in the sample."""
        return [self._grade(item, mine) for item, mine in zip(items, answers, strict=True)]

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """Chance, and always choosing the most common right index."""
        options: list[Options] = [item.data[1] for item in items]
        chance = float(np.mean([len(o.right) / len(o.texts) for o in options]))
        beside = [Reference("chance", chance)]
        firsts = [o.right[0] for o in options]
        if len(set(firsts)) > 1:  # where the right option always comes first, its place says nothing
            most = max(firsts.count(index) for index in set(firsts))
            beside.append(Reference("most common answer", most / len(firsts)))
        return {name: beside if name.startswith("acc") else beside[:1] for name in self.spec.metrics if name != "brier"}

    def _pair(self, question: Question, option: str) -> tuple[Any, str]:
        if self.spec.contexts is not None:
            assert self.spec.target is not None
            target = render(self.spec.target, question.row)
            if self.chat:
                return question.messages(option), target
            return question.text(self.spec, option), self.spec.delimiter + target
        if self.chat:
            return question.messages(), option
        return question.text(self.spec), self.spec.delimiter + option

    def _options(self, row: Row) -> Options:
        source = self.spec.choices if self.spec.choices is not None else self.spec.contexts
        found = evaluate(source, row) if isinstance(source, str) else source
        if not isinstance(found, (list, tuple)) or not all(isinstance(option, str) for option in found):
            raise FoundlingError(f"{row.where}: the choices are {found!r}", "a list of texts was expected")
        if len(found) < 2:
            raise FoundlingError(f"{row.where} has {len(found)} choices", "at least two are needed")
        empty = next((i for i, option in enumerate(found) if not option.strip()), None)
        if empty is not None:
            raise FoundlingError(f"{row.where}: choice {empty} is empty")
        assert self.spec.answer is not None
        answer = evaluate(self.spec.answer, row)
        right = tuple(self._index(one, found, row) for one in (answer if isinstance(answer, list) else [answer]))
        if not right:
            raise FoundlingError(f"{row.where} has no right answer")
        return Options(tuple(found), right)

    def _index(self, answer: Any, options: Sequence[str], row: Row) -> int:
        if isinstance(answer, str) and answer in options:
            return list(options).index(answer)
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
            what = f"{row.where}: the answer {answer!r} is out of range"
            raise FoundlingError(what, f"an index from 0 to {len(options) - 1} or the text of a choice was expected")
        return answer

    def _grade(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        question, options = item.data
        logprobs = np.array([a.logprob for a in answers if isinstance(a, LoglikelihoodAnswer)])
        conditional, free = logprobs[: len(options.texts)], logprobs[len(options.texts) :]
        probabilities = np.exp(conditional - np.logaddexp.reduce(conditional))
        lengths = np.array([float(len(option)) for option in options.texts])
        sizes = np.array([float(len(option.encode())) for option in options.texts])
        picks = {"acc": conditional, "acc_norm": conditional / lengths, "acc_bytes": conditional / sizes}
        if free.size:
            picks["acc_mutual_info"] = conditional - free
        truth = np.zeros(len(options.texts))
        truth[list(options.right)] = 1.0
        values = {name: float(int(np.argmax(scores)) in options.right) for name, scores in picks.items()}
        values |= {"mass": float(probabilities @ truth), "brier": float(((probabilities - truth) ** 2).sum())}
        sample = {
            "question": question.prompt,
            "options": list(options.texts),
            "right": list(options.right),
            "logprobs": [round(float(x), 6) for x in conditional],
            "picked": int(np.argmax(conditional)),
            "pick": options.texts[int(np.argmax(conditional))],
            "confidence": float(probabilities.max()),
            "correct": values["acc"],
        }
        flags = tuple(["truncated"] if any(getattr(a, "truncated", False) for a in answers) else [])
        return Outcome(item.id, {name: values[name] for name in self.spec.metrics}, sample, item.slice, flags)
