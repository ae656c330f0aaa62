"""Conversations in several turns (MT-Bench): the user's turns are given, the model's answers are kept for judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.evaluation.prompting import questions
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Request
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.task_file import TaskFile
from foundling.evaluation.templates import evaluate


@dataclass(frozen=True)
class Conversation:
    """A task file of kind `conversation`. What an answer is worth, a judge says (`foundling judge`).

    Measured here: "whole", all turns were answered with something that came to an end, and "words" of the answers.
    Without a chat template the turns are written out as "User:" and "Assistant:".
    """

    spec: TaskFile
    folder: Path
    chat: bool = False

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        settings = {"kind": "conversation", "chat": self.chat, "data": self.spec.data.file}
        metrics = (Metric("whole"), Metric("words", "mean"))
        return Task(self.spec.name, self.spec.version, metrics, {**settings, "max_tokens": self.spec.max_tokens})

    @cached_property
    def _items(self) -> list[Item]:
        asked = questions(self.spec, self.folder, lambda row: "")
        return [replace(item, data=self._turns(question.row)) for item, question in asked]

    def items(self) -> Sequence[Item]:
        """One per conversation; data is the user's turns."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """The answer to the first turn."""
        return self.next_requests(item, [])

    def next_requests(self, item: Item, answers: Sequence[Answer]) -> Sequence[Request]:
        """The answer to the next turn, after the model's own answers to those before."""
        turns: list[str] = item.data
        if len(answers) == len(turns):
            return []
        said = [(role, text.strip()) for role, text in transcript(turns, answers)]
        if self.chat:
            return [Generate(tuple(said), self.spec.max_tokens, self.spec.stop)]
        text = "".join(f"{role.capitalize()}: {content}\n\n" for role, content in said)
        return [Generate(f"{text}Assistant:", self.spec.max_tokens, ("\nUser:", *self.spec.stop))]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Keeps the conversation."""
        outcomes = []
        for item, mine in zip(items, answers, strict=True):
            given = [answer for answer in mine if isinstance(answer, GenerateAnswer)]
            texts = [answer.texts[0].strip() for answer in given]
            cut = any(answer.finish_reasons[0] == "length" for answer in given)
            metrics = {"whole": float(all(texts) and not cut), "words": float(sum(len(t.split()) for t in texts))}
            said = [{"role": role, "content": text} for role, text in transcript(item.data, mine)]
            flags = (("cut off",) if cut else ()) + (("empty answer",) if not all(texts) else ())
            flags += ("truncated",) if any(answer.truncated for answer in given) else ()
            sample = {"question": item.data[0], "conversation": said}
            outcomes.append(Outcome(item.id, dict(metrics), sample, item.slice, flags))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """None: what a conversation is worth is a judge's to say."""
        return {}

    def _turns(self, row: Row) -> list[str]:
        assert self.spec.turns is not None
        turns = evaluate(self.spec.turns, row)
        if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
            raise FoundlingError(f"{row.where}: the turns are {turns!r}", "a list of texts was expected, none empty")
        return turns


def transcript(turns: Sequence[str], answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """(role, text) of the turns so far: user and assistant, up to the user's turn that is to be answered."""
    said: list[tuple[str, str]] = []
    for index, turn in enumerate(turns[: len(answers) + 1]):
        said.append(("user", turn))
        if index < len(answers):
            answer = answers[index]
            assert isinstance(answer, GenerateAnswer)
            said.append(("assistant", answer.texts[0].strip()))
    return said
