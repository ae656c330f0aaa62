"""What tasks with generated answers share: a question per row, one greedy answer, samples where wanted, and flags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from foundling.core.rng import seed_for
from foundling.evaluation.config import SamplesConfig
from foundling.evaluation.prompting import Question, questions
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Request
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item, Outcome, Reference, Task, Value
from foundling.evaluation.task_file import TaskFile


@dataclass(frozen=True)
class Graded:
    """What a text is worth: its metrics, what is kept of it, and what is counted."""

    metrics: dict[str, Value]
    sample: dict[str, Any]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered(ABC):
    """A task file whose questions are answered with text. An item's data is (question, truth).

    Args:
        chat: the question is put through the chat template.
        samples: how many answers are sampled beside the greedy one.
    """

    spec: TaskFile
    folder: Path
    chat: bool = False
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    seed: int = 0

    @property
    @abstractmethod
    def task(self) -> Task:
        """Name, metrics, settings."""

    @abstractmethod
    def truth(self, row: Row) -> Any:
        """What an answer is held against. Raises FoundlingError naming a row that has none."""

    @abstractmethod
    def graded(self, truth: Any, text: str) -> Graded:
        """One text's metrics."""

    @abstractmethod
    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """See Evaluable."""

    def shown(self, row: Row) -> str:
        """The answer that a worked example shows."""
        raise AssertionError(f"tasks of kind {self.spec.kind} are asked without worked examples")

    @cached_property
    def _items(self) -> list[Item]:
        asked = questions(self.spec, self.folder, self.shown)
        return [replace(item, data=(question, self.truth(question.row))) for item, question in asked]

    def items(self) -> Sequence[Item]:
        """One per row; data is the question and its truth."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """One greedy answer and, if wanted, the samples."""
        question: Question = item.data[0]
        prompt = question.messages() if self.chat else question.text(self.spec)
        greedy = Generate(prompt, self.spec.max_tokens, self.spec.stop)
        if not self.samples.count:
            return [greedy]
        seed = seed_for(self.seed, self.spec.name, item.id)
        return [greedy, replace(greedy, temperature=self.samples.temperature, n=self.samples.count, seed=seed)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """The greedy answer's metrics, with what the samples add to them."""
        return [self._outcome(item, mine) for item, mine in zip(items, answers, strict=True)]

    def repeated(self, truth: Any, greedy: Graded, texts: Sequence[str]) -> dict[str, Value]:
        """Metrics of the sampled texts beside the greedy one; may add to its sample."""
        return {}

    def settings(self) -> dict[str, Any]:
        """How the model is asked: part of the result."""
        found: dict[str, Any] = {
            "kind": self.spec.kind,
            "chat": self.chat,
            "shots": self.spec.shots.count,
            "data": self.spec.data.file,
        }
        found |= {"max_tokens": self.spec.max_tokens, "stop": list(self.spec.stop)}
        return found | ({"samples": self.samples.model_dump(mode="json")} if self.samples.count else {})

    def _outcome(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        answer = answers[0]
        assert isinstance(answer, GenerateAnswer)
        question, truth = item.data
        found = self.graded(truth, answer.texts[0])
        metrics = dict(found.metrics)
        if self.samples.count:
            metrics |= self.repeated(truth, found, texts_of(answers[1]))
        flags = found.flags + (("truncated",) if answer.truncated else ())
        flags += ("cut off",) if answer.finish_reasons[0] == "length" else ()
        flags += () if answer.texts[0].strip() else ("empty answer",)
        sample = {"question": question.prompt, "answer": answer.texts[0], **found.sample}
        return Outcome(item.id, metrics, sample, item.slice, flags)


def texts_of(answer: Answer) -> tuple[str, ...]:
    """The texts of a generated answer."""
    assert isinstance(answer, GenerateAnswer)
    return answer.texts
