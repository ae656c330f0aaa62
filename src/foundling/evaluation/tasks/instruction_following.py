"""Verifiable instructions (IFEval): which of them a generated answer follows, strictly and loosely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foundling.core.errors import FoundlingError, nearest
from foundling.evaluation.instructions import CHECKERS, follows, follows_loosely
from foundling.evaluation.prompting import questions
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Request
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.task_file import TaskFile
from foundling.evaluation.templates import evaluate

Instruction = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class InstructionFollowing:
    """A task file of kind `instructions`: per prompt all of them followed, and over all instructions the share."""

    spec: TaskFile
    folder: Path
    chat: bool = False

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        metrics = [Metric(f"prompt {how}") for how in ("strict", "loose")]
        metrics += [Metric(f"instruction {how}", "ratio") for how in ("strict", "loose")]
        settings = {"kind": "instructions", "chat": self.chat, "max_tokens": self.spec.max_tokens}
        return Task(self.spec.name, self.spec.version, tuple(metrics), {**settings, "data": self.spec.data.file})

    @cached_property
    def _items(self) -> list[Item]:
        asked = questions(self.spec, self.folder, lambda row: "")
        return [Item(item.id, (question, self._instructions(question.row)), item.slice) for item, question in asked]

    def items(self) -> Sequence[Item]:
        """One per prompt; data is the question and its instructions."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """One greedy answer."""
        question, _ = item.data
        prompt = question.messages() if self.chat else question.text(self.spec)
        return [Generate(prompt, self.spec.max_tokens, self.spec.stop)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Each instruction's verdict is kept in the sample."""
        outcomes = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, GenerateAnswer)
            question, instructions = item.data
            text, n = answer.texts[0], len(instructions)
            strict = [follows(name, arguments, text) for name, arguments in instructions]
            loose = [follows_loosely(name, arguments, text) for name, arguments in instructions]
            metrics: dict[str, float | tuple[float, float]] = {
                "prompt strict": float(all(strict)),
                "prompt loose": float(all(loose)),
                "instruction strict": (float(sum(strict)), float(n)),
                "instruction loose": (float(sum(loose)), float(n)),
            }
            names = [name for name, _ in instructions]
            sample = {
                "prompt": question.prompt,
                "answer": text,
                "instructions": names,
                "strict": strict,
                "loose": loose,
            }
            flags = ("cut off",) if answer.finish_reasons[0] == "length" else ()
            outcomes.append(Outcome(item.id, metrics, sample, item.slice, flags))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """Some instructions ("no commas") are followed by saying next to nothing."""
        hits = [all(follows(name, arguments, "Yes") for name, arguments in item.data[1]) for item in items]
        return {"prompt strict": [Reference("always 'Yes'", sum(hits) / len(hits))]}

    def _instructions(self, row: Row) -> list[Instruction]:
        assert self.spec.instructions is not None and self.spec.arguments is not None
        names, arguments = evaluate(self.spec.instructions, row), evaluate(self.spec.arguments, row)
        if len(names) != len(arguments) or not names:
            raise FoundlingError(f"{row.where} has {len(names)} instructions and arguments for {len(arguments)}")
        unknown = next((name for name in names if name not in CHECKERS), None)
        if unknown is not None:
            raise FoundlingError(f"{row.where}: no instruction is called {unknown!r}", nearest(unknown, CHECKERS))
        return list(zip(names, arguments, strict=True))
