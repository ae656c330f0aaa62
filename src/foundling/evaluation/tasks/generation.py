"""Generated answers, read out by one or more rules and compared with the truth; every rule is its own metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.evaluation.matching import extract, matches
from foundling.evaluation.prompting import questions
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Request
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.task_file import TaskFile
from foundling.evaluation.templates import evaluate, render

_YES_OR_NO = ("exact", "numeric", "contains")


@dataclass(frozen=True)
class Generation:
    """A task file of kind `generate`."""

    spec: TaskFile
    folder: Path
    chat: bool = False

    @property
    def task(self) -> Task:
        """Name, metrics (one per extraction rule), settings."""
        metrics = tuple(
            Metric(name, "share" if rule.match in _YES_OR_NO else "mean") for name, rule in self.spec.extract.items()
        )
        settings = {"kind": "generate", "chat": self.chat, "shots": self.spec.shots.count, "data": self.spec.data.file}
        decoding = {"max_tokens": self.spec.max_tokens, "stop": list(self.spec.stop), "temperature": 0.0}
        return Task(self.spec.name, self.spec.version, metrics, {**settings, **decoding})

    @cached_property
    def _items(self) -> list[Item]:
        asked = questions(self.spec, self.folder, self._shown)
        return [Item(item.id, (question, self._accepted(question.row)), item.slice) for item, question in asked]

    def items(self) -> Sequence[Item]:
        """One per row; data is the question and the accepted answers."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """One greedy answer."""
        question, _ = item.data
        prompt = question.messages() if self.chat else question.text(self.spec)
        return [Generate(prompt, self.spec.max_tokens, self.spec.stop)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Each rule's extraction and verdict; an answer that a rule cannot find counts as wrong and is flagged."""
        outcomes = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, GenerateAnswer)
            question, accepted = item.data
            found = {name: extract(rule, answer.texts[0]) for name, rule in self.spec.extract.items()}
            metrics = {
                name: matches(self.spec.extract[name], text, accepted) if text is not None else 0.0
                for name, text in found.items()
            }
            flags = [f"{name}: no answer found" for name, text in found.items() if text is None]
            flags += ["truncated"] if answer.truncated else []
            flags += ["cut off"] if answer.finish_reasons[0] == "length" else []
            sample = {"question": question.prompt, "answer": answer.texts[0], "read": found, "accepted": accepted[:5]}
            outcomes.append(Outcome(item.id, dict(metrics), sample, item.slice, tuple(flags)))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """What always giving the most common answer scores."""
        answers = [item.data[1] for item in items]
        common = Counter(accepted[0] for accepted in answers).most_common(1)[0][0]
        beside = {}
        for name, rule in self.spec.extract.items():
            share = sum(matches(rule, common, accepted) for accepted in answers) / len(answers)
            beside[name] = [Reference("most common answer", share)]
        return beside

    def _accepted(self, row: Row) -> list[str]:
        assert self.spec.answer is not None
        found = evaluate(self.spec.answer, row)
        accepted = [str(one) for one in (found if isinstance(found, (list, tuple)) else [found])]
        if not accepted or not all(text.strip() for text in accepted):
            raise FoundlingError(f"{row.where}: the accepted answers are {accepted!r}", "none may be empty")
        return accepted

    def _shown(self, row: Row) -> str:
        return render(self.spec.target, row) if self.spec.target else self._accepted(row)[0]
