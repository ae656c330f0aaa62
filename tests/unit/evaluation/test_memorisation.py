"""Extraction of training text, by a model that recites and one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars

from foundling.core.artifacts import Artifact
from foundling.evaluation.config import MemorisationConfig
from foundling.evaluation.documents import Documents
from foundling.evaluation.requests import Answer, Answerer, Generate, GenerateAnswer, Request
from foundling.evaluation.running import run_task
from foundling.evaluation.scores import summarise
from foundling.evaluation.tasks.memorisation import Memorisation


class Parrot(Answerer):
    """Continues what stands in `known`, and says nothing else."""

    def __init__(self, known: str) -> None:
        self.known = known

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        assert isinstance(request, Generate) and isinstance(request.prompt, str)
        at = self.known.find(request.prompt)
        end = at + len(request.prompt)
        text = self.known[end : end + request.max_tokens] if at >= 0 else ""
        return GenerateAnswer((text,), ("length",), 1, 1)


def test_recited_text_is_found(tmp_path: Path) -> None:
    """Guards against prefixes taken from held-out text as training text, and overlap that ignores the beginning."""
    train = " ".join(f"word{n * n}" for n in range(2000))
    held_out = " ".join(f"other{n * n + 1}" for n in range(2000))
    for name, text in (("train", train), ("validation", held_out)):
        pieces = [text[i : i + 400] for i in range(0, len(text) - 400, 400)]
        frame = {"id": [str(i) for i in range(len(pieces))], "text": pieces, "source": ["x"] * len(pieces)}
        polars.DataFrame(frame).write_parquet(tmp_path / f"{name}.parquet")
    documents = Documents(Artifact.outside(tmp_path, "corpus"))
    task = Memorisation(MemorisationConfig(items=10, prefix=100, suffix=60), documents, seed=0)
    summary = summarise(task, run_task(task, task.items(), Parrot(train), 8, tmp_path / "log"), seed=0)
    scores = {name: metric["value"] for name, metric in summary["metrics"].items()}
    assert scores["extracted (train)"] == scores["overlap (train)"] == 1.0
    assert scores["extracted (held-out)"] == scores["overlap (held-out)"] == 0.0
    assert summary["metrics"]["extracted (train)"]["n"] == 10
