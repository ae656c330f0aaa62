"""Grading answers of the expression task by running them on hidden inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundling.core.sandbox import Job, Result, Sandbox, shared
from foundling.evaluation.tasks.expressions.items import Item

PASSED, WRONG = "passed", "wrong"


@dataclass(frozen=True)
class Outcome:
    """What became of one answer: "passed", "wrong", or why it could not be run ("syntax", "error", "timeout", ...)."""

    verdict: str
    message: str = ""

    @property
    def passed(self) -> bool:
        """Equal to the reference, in value and type, on every hidden input."""
        return self.verdict == PASSED

    @property
    def followed(self) -> bool:
        """The answer is one expression and nothing else, right or wrong: no prose, no statements, no code fence."""
        return self.verdict not in ("syntax", "not allowed")


def grade(items: Sequence[Item], answers: Sequence[str], sandbox: Sandbox | None = None) -> list[Outcome]:
    """Grade one answer an item. A hang or a crash costs that one answer, under its reason."""
    assert len(items) == len(answers), (len(items), len(answers))
    distinct = list({item.id: item for item in items}.values())
    jobs = [Job(item.reference, item.inputs) for item in distinct]
    jobs += [Job(answer.strip(), item.inputs) for item, answer in zip(items, answers, strict=True)]
    results = (sandbox or shared()).evaluate(jobs)
    wanted = {item.id: result.values for item, result in zip(distinct, results, strict=False)}
    given = results[len(distinct) :]
    return [_judge(wanted[item.id], result) for item, result in zip(items, given, strict=True)]


def _judge(wanted: tuple[Any, ...] | None, got: Result) -> Outcome:
    assert wanted is not None, "a reference of our own grammar must run on its own inputs"
    if got.values is None:
        return Outcome(got.reason, got.message)
    same = all(type(a) is type(b) and a == b for a, b in zip(wanted, got.values, strict=True))
    return Outcome(PASSED) if same else Outcome(WRONG, "another value on a hidden input")
