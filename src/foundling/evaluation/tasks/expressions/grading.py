"""Grading answers of the expression task by running them on hidden inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundling.core.sandbox import Job, Sandbox, Verdict
from foundling.evaluation.tasks.expressions.items import Item


@dataclass(frozen=True)
class Outcome:
    """What became of one answer. `followed`: it is one expression and nothing else, as the instruction asks."""

    verdict: Verdict
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Equal to the reference, in value and type, on every hidden input."""
        return self.verdict == "passed"

    @property
    def followed(self) -> bool:
        """The answer is one allowed expression, right or wrong: no prose, no statements, no code fence."""
        return self.verdict != "refused"


def grade(items: Sequence[Item], answers: Sequence[str], sandbox: Sandbox | None = None) -> list[Outcome]:
    """Grade one answer an item. A hang or a crash costs that one answer, under its reason."""
    assert len(items) == len(answers), (len(items), len(answers))
    jobs = [Job(answer, item.reference, item.inputs) for item, answer in zip(items, answers, strict=True)]
    if sandbox is not None:
        results = sandbox.run(jobs)
    else:
        with Sandbox() as fresh:
            results = fresh.run(jobs)
    return [Outcome(result.verdict, result.reason) for result in results]
