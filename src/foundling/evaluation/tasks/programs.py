"""Programs that are run: HumanEval, MBPP and the like, with unbiased pass@k and pass^k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from foundling.core.rng import seed_for
from foundling.evaluation.code_sandbox import ProgramLimits, ProgramResult, require_isolation, run_programs
from foundling.evaluation.config import ProgramsConfig
from foundling.evaluation.prompting import Question, questions
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Request
from foundling.evaluation.statistics import pass_all_k, pass_at_k
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.task_file import TaskFile
from foundling.evaluation.templates import render


@dataclass(frozen=True)
class Programs:
    """A task file of kind `program`. Refuses, before any model is loaded, a machine that cannot isolate programs."""

    spec: TaskFile
    folder: Path
    config: ProgramsConfig
    seed: int = 0
    chat: bool = False

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        metrics = [Metric("pass")]
        metrics += [Metric(f"pass{sign}{k}", "mean") for k in self._ks for sign in "@^"]
        settings = {"kind": "program", "chat": self.chat, "data": self.spec.data.file, "stop": list(self.spec.stop)}
        return Task(self.spec.name, self.spec.version, tuple(metrics), {**settings, **self.config.model_dump()})

    @cached_property
    def _items(self) -> list[Item]:
        require_isolation()
        return [replace(item, data=q) for item, q in questions(self.spec, self.folder, self._shown)]

    def items(self) -> Sequence[Item]:
        """One per problem."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """The greedy program and, if wanted, the samples."""
        question: Question = item.data
        prompt = question.messages() if self.chat else question.text(self.spec)
        greedy = Generate(prompt, self.spec.max_tokens, self.spec.stop)
        if not self.config.samples:
            return [greedy]
        seed = seed_for(self.seed, self.spec.name, item.id)
        return [greedy, replace(greedy, temperature=self.config.temperature, n=self.config.samples, seed=seed)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Runs every different program once."""
        texts = [[text for answer in mine for text in _texts(answer)] for mine in answers]
        jobs = list(dict.fromkeys((i, text) for i, mine in enumerate(texts) for text in mine))
        limits = ProgramLimits(cpu_s=self.config.cpu_s, wall_s=4.0 * self.config.cpu_s)
        results = run_programs([self._program(items[i].data, text) for i, text in jobs], limits)
        found = dict(zip(jobs, results, strict=True))
        return [
            self._outcome(item, mine, [found[i, text] for text in mine])
            for i, (item, mine) in enumerate(zip(items, texts, strict=True))
        ]

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """An empty answer passes nothing."""
        return {"pass": [Reference("empty program", 0.0)]}

    @property
    def _ks(self) -> list[int]:
        return [k for k in self.config.k if k <= self.config.samples]

    def _program(self, question: Question, text: str) -> str:
        assert self.spec.program is not None
        return render(self.spec.program, question.row, reply=code_of(text) if self.chat else text)

    def _shown(self, row: object) -> str:
        raise AssertionError("tasks of programs are asked without worked examples")

    def _outcome(self, item: Item, texts: list[str], results: list[ProgramResult]) -> Outcome:
        metrics: dict[str, float | tuple[float, float]] = {"pass": float(results[0].passed)}
        n, correct = len(results) - 1, sum(result.passed for result in results[1:])
        for k in self._ks:
            metrics |= {f"pass@{k}": pass_at_k(n, correct, k), f"pass^{k}": pass_all_k(n, correct, k)}
        greedy = results[0]
        sample = {"answer": texts[0], "reason": greedy.reason, "message": greedy.message, "correct": correct}
        return Outcome(item.id, metrics, sample, item.slice, (greedy.reason,) if greedy.reason else ())


def _texts(answer: Answer) -> tuple[str, ...]:
    assert isinstance(answer, GenerateAnswer)
    return answer.texts


def code_of(text: str) -> str:
    """The first fenced block of a chat answer, or all of it."""
    if "```" not in text:
        return text
    block = text.split("```")[1]
    return block.removeprefix("python").removeprefix("py")
