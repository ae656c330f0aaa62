"""Programs that are run: HumanEval, MBPP and the like, with unbiased pass@k and pass^k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from foundling.evaluation.code_sandbox import ProgramLimits, ProgramResult, require_isolation, run_programs
from foundling.evaluation.config import ProgramsConfig
from foundling.evaluation.prompting import Question
from foundling.evaluation.requests import Answer
from foundling.evaluation.rows import Row
from foundling.evaluation.statistics import pass_all_k, pass_at_k
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task, Value
from foundling.evaluation.tasks.answered import Answered, Graded, texts_of
from foundling.evaluation.templates import render


@dataclass(frozen=True)
class Programs(Answered):
    """A task file of kind `program`. Refuses, before any model is loaded, a machine that cannot isolate programs."""

    config: ProgramsConfig = field(default_factory=ProgramsConfig)

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        metrics = [Metric("pass")]
        metrics += [Metric(f"pass{sign}{k}", "mean") for k in self.samples.ks for sign in "@^"]
        settings = {**self.settings(), **self.config.model_dump(mode="json")}
        return Task(self.spec.name, self.spec.version, tuple(metrics), settings)

    @cached_property
    def _items(self) -> list[Item]:
        require_isolation()
        return list(super()._items)

    def truth(self, row: Row) -> None:
        """The program's own tests are the truth."""

    def graded(self, truth: None, text: str) -> Graded:
        """Programs are run together, see `grade`."""
        raise AssertionError("programs are graded in blocks")

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Runs every different program once."""
        texts = [[text for answer in mine for text in texts_of(answer)] for mine in answers]
        jobs = list(dict.fromkeys((i, text) for i, mine in enumerate(texts) for text in mine))
        limits = ProgramLimits(cpu_s=self.config.cpu_s, wall_s=4.0 * self.config.cpu_s)
        results = run_programs([self._program(items[i].data[0], text) for i, text in jobs], limits)
        found = dict(zip(jobs, results, strict=True))
        return [
            self._ran(item, mine, [found[i, text] for text in mine])
            for i, (item, mine) in enumerate(zip(items, texts, strict=True))
        ]

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """An empty answer passes nothing."""
        return {"pass": [Reference("empty program", 0.0)]}

    def _program(self, question: Question, text: str) -> str:
        assert self.spec.program is not None
        return render(self.spec.program, question.row, reply=code_of(text) if self.chat else text)

    def _ran(self, item: Item, texts: list[str], results: list[ProgramResult]) -> Outcome:
        metrics: dict[str, Value] = {"pass": float(results[0].passed)}
        n, correct = len(results) - 1, sum(result.passed for result in results[1:])
        for k in self.samples.ks:
            metrics |= {f"pass@{k}": pass_at_k(n, correct, k), f"pass^{k}": pass_all_k(n, correct, k)}
        greedy = results[0]
        sample = {
            "question": item.data[0].prompt,
            "answer": texts[0],
            "reason": greedy.reason,
            "message": greedy.message,
            "correct": correct,
        }
        return Outcome(item.id, metrics, sample, item.slice, (greedy.reason,) if greedy.reason else ())


def code_of(text: str) -> str:
    """The first fenced block of a chat answer, or all of it."""
    if "```" not in text:
        return text
    block = text.split("```")[1]
    return block.removeprefix("python").removeprefix("py")
