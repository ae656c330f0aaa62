"""How likely one given continuation is, and whether greedy decoding finds it (LAMBADA); bits per byte of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.evaluation.prompting import questions
from foundling.evaluation.requests import Answer, Loglikelihood, LoglikelihoodAnswer, Request, Rolling, RollingAnswer
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.task_file import TaskFile
from foundling.evaluation.templates import render


@dataclass(frozen=True)
class Continuation:
    """A task file of kind `continuation`: acc is "greedy decoding gives just this", nats the mean -log p of one."""

    spec: TaskFile
    folder: Path
    chat: bool = False

    @property
    def task(self) -> Task:
        """Name, metrics, settings. lm-eval's perplexity is exp(nats)."""
        settings = {"kind": "continuation", "chat": self.chat, "shots": self.spec.shots.count}
        metrics = (Metric("acc"), Metric("nats", "mean", higher_is_better=False))
        return Task(self.spec.name, self.spec.version, metrics, {**settings, "data": self.spec.data.file})

    @cached_property
    def _items(self) -> list[Item]:
        asked = questions(self.spec, self.folder, self._target)
        return [Item(item.id, (question, self._target(question.row)), item.slice) for item, question in asked]

    def items(self) -> Sequence[Item]:
        """One per row; data is the question and the continuation."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """One log-likelihood."""
        question, target = item.data
        if self.chat:
            return [Loglikelihood(question.messages(), target)]
        return [Loglikelihood(question.text(self.spec), self.spec.delimiter + target)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Whether it is greedy, and its -log p."""
        outcomes = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, LoglikelihoodAnswer)
            question, target = item.data
            metrics = {"acc": float(answer.is_greedy), "nats": -answer.logprob}
            sample = {"question": question.prompt, "target": target, "logprob": round(answer.logprob, 6)}
            flags = ("truncated",) if answer.truncated else ()
            outcomes.append(Outcome(item.id, dict(metrics), sample, item.slice, flags))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """None: guessing a word out of all words is right about never."""
        return {"acc": [Reference("chance", 0.0)]}

    def _target(self, row: Row) -> str:
        assert self.spec.target is not None
        target = render(self.spec.target, row)
        if not target.strip():
            raise FoundlingError(f"{row.where}: the continuation is empty")
        return target


@dataclass(frozen=True)
class Texts:
    """A task file of kind `text`: bits per byte and per character of whole texts, by slice (domain, language)."""

    spec: TaskFile
    folder: Path

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        names = ("bits_per_byte", "bits_per_character", "nats_per_token")
        metrics = tuple(Metric(name, "ratio", higher_is_better=False) for name in names)
        return Task(self.spec.name, self.spec.version, metrics, {"kind": "text", "data": self.spec.data.file})

    @cached_property
    def _items(self) -> list[Item]:
        assert self.spec.target is not None
        asked = questions(self.spec, self.folder, lambda row: "")
        items = [Item(item.id, render(self.spec.target, question.row), item.slice) for item, question in asked]
        for item, (_, question) in zip(items, asked, strict=True):
            if not item.data:
                raise FoundlingError(f"{question.row.where}: the text is empty")
        return items

    def items(self) -> Sequence[Item]:
        """One per row; data is the text."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """The whole text."""
        return [Rolling(item.data)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Bits over bytes and characters, nats over tokens."""
        outcomes = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, RollingAnswer)
            bits, size = -answer.logprob / math.log(2), len(item.data.encode())
            metrics = {
                "bits_per_byte": (bits, float(size)),
                "bits_per_character": (bits, float(len(item.data))),
                "nats_per_token": (-answer.logprob, float(answer.tokens)),
            }
            outcomes.append(Outcome(item.id, dict(metrics), {"bytes": size, "tokens": answer.tokens}, item.slice))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """gzip and xz, text by text."""
        from foundling.corpus.baselines import compression_baselines

        found = compression_baselines([item.data for item in items])
        return {"bits_per_byte": [Reference(name, value) for name, value in found.items()]}
