"""The expression task as an evaluation, answered by perfect and by useless models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from foundling.evaluation.config import ExpressionsConfig
from foundling.evaluation.requests import Answer, Answerer, Generate, GenerateAnswer, Request
from foundling.evaluation.running import run_task
from foundling.evaluation.scores import summarise
from foundling.evaluation.tasks.answering_expressions import AnsweringExpressions


class Oracle(Answerer):
    """Answers with the reference, or with what `spoil` makes of it."""

    def __init__(self, task: AnsweringExpressions, good_samples: int, chatter: str = "") -> None:
        self.references = {item.data.instruction: item.data.reference for item in task.items()}
        self.good_samples, self.chatter = good_samples, chatter

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        assert isinstance(request, Generate)
        if isinstance(request.prompt, str):
            instruction = request.prompt.rstrip("\n").rsplit("# ", 1)[1]
        else:
            instruction = request.prompt[-1][1]
        right = self.chatter + self.references[instruction]
        texts = (right,) if request.n == 1 else tuple(right if i < self.good_samples else "0" for i in range(request.n))
        return GenerateAnswer(texts, ("stop",) * request.n, 10, 10)


@pytest.mark.parametrize("prompt", ["chat", "few-shot"])
def test_a_perfect_model_scores_one(prompt: str, tmp_path: Path) -> None:
    """Guards against references that fail their own hidden inputs, and answers graded against another item."""
    task = AnsweringExpressions(ExpressionsConfig(items=12, prompt=prompt), seed=0)
    summary = summarise(task, run_task(task, task.items(), Oracle(task, 8), 10, tmp_path / "s"), seed=0)
    scores = {name: metric["value"] for name, metric in summary["metrics"].items()}
    assert scores == {"pass@1": 1.0, "followed": 1.0, "pass@8": 1.0, "pass^8": 1.0, "pass@1 sampled": 1.0}
    assert set(summary["slices"]) == {"compositions", "phrasings"}
    assert summary["metrics"]["pass@1"]["reference"][0]["value"] < 0.5


def test_one_good_sample_of_eight_and_chatter(tmp_path: Path) -> None:
    """Guards against pass@8 computed from the greedy answer, and prose around an expression counted as followed."""
    task = AnsweringExpressions(ExpressionsConfig(items=8), seed=0)
    oracle = Oracle(task, 1, chatter="Sure! Here it is: ")
    summary = summarise(task, run_task(task, task.items(), oracle, 16, tmp_path / "a"), seed=0)
    assert summary["metrics"]["pass@1"]["value"] == 0 and summary["metrics"]["followed"]["value"] == 0
    summary = summarise(task, run_task(task, task.items(), Oracle(task, 1), 16, tmp_path / "b"), seed=0)
    scores = {name: metric["value"] for name, metric in summary["metrics"].items()}
    assert scores["pass@8"] == 1.0 and scores["pass^8"] == 0.0 and scores["pass@1 sampled"] == pytest.approx(1 / 8)


def test_items_do_not_depend_on_the_seed() -> None:
    """Guards against evaluating on instructions that the corpus was not decontaminated from."""
    first = AnsweringExpressions(ExpressionsConfig(items=5), seed=0)
    second = AnsweringExpressions(ExpressionsConfig(items=5), seed=9)
    assert [item.id for item in first.items()] == [item.id for item in second.items()]
    assert first.requests(first.items()[0])[1] != second.requests(second.items()[0])[1]
