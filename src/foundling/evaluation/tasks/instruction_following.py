"""Verifiable instructions (IFEval): which of them a generated answer follows, strictly and loosely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundling.core.errors import FoundlingError, nearest
from foundling.evaluation.instructions import CHECKERS, follows, follows_loosely
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item, Metric, Reference, Task
from foundling.evaluation.tasks.answered import Answered, Graded
from foundling.evaluation.templates import evaluate

Instruction = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class InstructionFollowing(Answered):
    """A task file of kind `instructions`: per prompt all of them followed, and over all instructions the share."""

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        metrics = [Metric(f"prompt {how}") for how in ("strict", "loose")]
        metrics += [Metric(f"instruction {how}", "ratio") for how in ("strict", "loose")]
        return Task(self.spec.name, self.spec.version, tuple(metrics), self.settings())

    def truth(self, row: Row) -> list[Instruction]:
        """The instructions and their arguments."""
        assert self.spec.instructions is not None and self.spec.arguments is not None
        names, arguments = evaluate(self.spec.instructions, row), evaluate(self.spec.arguments, row)
        if len(names) != len(arguments) or not names:
            raise FoundlingError(f"{row.where} has {len(names)} instructions and arguments for {len(arguments)}")
        unknown = next((name for name in names if name not in CHECKERS), None)
        if unknown is not None:
            raise FoundlingError(f"{row.where}: no instruction is called {unknown!r}", nearest(unknown, CHECKERS))
        return list(zip(names, arguments, strict=True))

    def graded(self, truth: list[Instruction], text: str) -> Graded:
        """Each instruction's verdict is kept in the sample."""
        strict = [follows(name, arguments, text) for name, arguments in truth]
        loose = [follows_loosely(name, arguments, text) for name, arguments in truth]
        n = float(len(truth))
        return Graded(
            {
                "prompt strict": float(all(strict)),
                "prompt loose": float(all(loose)),
                "instruction strict": (float(sum(strict)), n),
                "instruction loose": (float(sum(loose)), n),
            },
            {"instructions": [name for name, _ in truth], "strict": strict, "loose": loose},
        )

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """Some instructions ("no commas") are followed by saying next to nothing."""
        hits = [all(follows(name, arguments, "Yes") for name, arguments in item.data[1]) for item in items]
        return {"prompt strict": [Reference("always 'Yes'", sum(hits) / len(hits))]}
