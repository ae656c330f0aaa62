"""The stage as the pipeline runs it, on a small random model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import polars
import pytest
import torch

from foundling.core.artifacts import Artifact, Draft
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.evaluation import evaluate
from foundling.evaluation.answering import LocalAnswerer
from foundling.evaluation.compare import compare
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.report import write_report
from foundling.evaluation.requests import (
    Answer,
    Generate,
    GenerateAnswer,
    Loglikelihood,
    LoglikelihoodAnswer,
    Rolling,
    RollingAnswer,
)
from foundling.inference.model import Model, load
from foundling.models.checkpoint import save_module

SETTINGS = {
    "tasks": ["bits-per-byte", "syntax"],
    "block": 3,
    "bits_per_byte": {"max_bytes": 60_000, "ngram_bytes": 20_000},
    "syntax": {"items": 5, "max_tokens": 8},
}


def run(model: Path, corpus: Artifact, folder: Path, **changes: object) -> Draft:
    """Run the stage into `folder`."""
    draft = Draft(folder / "files", folder / "scratch", "0" * 16)
    draft.path.mkdir(parents=True, exist_ok=True)
    draft.scratch.mkdir(exist_ok=True)
    config = parse(EvaluateConfig, {**SETTINGS, **changes}, "test")
    evaluate.build(config, Inputs({"model": Artifact.outside(model, "model"), "corpus": corpus}), draft)
    return draft


@pytest.fixture(scope="module")
def model(model_directory: Path) -> Model:
    return load(model_directory)


def test_scores_equal_the_full_forward_pass(model: Model) -> None:
    """Guards against a continuation scored at the wrong positions, and rolling windows that skip or repeat tokens."""
    answerer = LocalAnswerer(model.engine, model.tokenizer, 128, window_context=0.5)
    text = "def f(x):\n    return [y for y in x if y]\n" * 20
    context, continuation = "import os\n", "import sys\n"
    answers = answerer.answer([Rolling(text), Loglikelihood(context, continuation)])
    ids = model.tokenizer.encode(text)
    total, start = 0.0, 0
    while start < len(ids):  # each token behind at least 64 tokens of context, where there are as many
        end = min(len(ids), 128 if start == 0 else start + 65)
        window = [model.tokenizer.eot_id, *ids][max(0, end - 128) : end]
        logprobs = torch.log_softmax(model.logits([window])[0], -1)
        for position in range(start, end):
            total += float(logprobs[position - max(0, end - 128), ids[position]])
        start = end
    assert isinstance(answers[0], RollingAnswer) and answers[0].tokens == len(ids)
    assert answers[0].logprob == pytest.approx(total, abs=1e-2)
    assert isinstance(answers[1], LoglikelihoodAnswer)
    before, both = model.tokenizer.encode(context.rstrip()), model.tokenizer.encode(context + continuation)
    logprobs = torch.log_softmax(model.logits([both])[0], -1)
    expected = sum(float(logprobs[i - 1, both[i]]) for i in range(len(before), len(both)))
    assert answers[1].logprob == pytest.approx(expected, abs=1e-3)


def test_answers_keep_order_and_count_truncation(model: Model) -> None:
    """Guards against answers handed to the wrong request when kinds are mixed, and silent truncation."""
    answerer = LocalAnswerer(model.engine, model.tokenizer, 64)
    long = "x = 1\n" * 100
    requests = [Generate("a = ", 4), Loglikelihood(long, " y"), Generate(long, 4, n=3, temperature=1.0, seed=5)]
    first, second, third = answerer.answer(requests)
    assert isinstance(first, GenerateAnswer) and not first.truncated and first.tokens <= 4
    assert isinstance(second, LoglikelihoodAnswer) and second.truncated
    assert isinstance(third, GenerateAnswer) and third.truncated and len(third.texts) == 3
    assert answerer.answer(requests[2:])[0] == third
    with pytest.raises(FoundlingError, match="leaves no room"):
        answerer.answer([Generate("a", 64)])


def test_stage_writes_scores_with_intervals(model_directory: Path, corpus: Artifact, tmp_path: Path) -> None:
    """Guards against a result without interval or settings, and a random model that seems to have learned."""
    draft = run(model_directory, corpus, tmp_path)
    results = json.loads((draft.path / "results.json").read_text())
    bits = results["tasks"]["bits-per-byte"]["metrics"]["bits_per_byte"]
    assert bits["low"] <= bits["value"] <= bits["high"] and bits["n"] > 2
    assert bits["value"] > math.log2(600) / 4
    assert [r["name"] for r in bits["reference"]] == ["gzip", "xz", "n-gram"]
    assert results["tasks"]["syntax"]["items"] == 5
    samples = [json.loads(line) for line in (draft.path / "samples.jsonl").read_text().splitlines()]
    assert {row["task"] for row in samples} == {"bits-per-byte", "syntax"}
    assert draft.metrics["bits-per-byte.bits_per_byte"]["value"] == bits["value"]


@pytest.mark.parametrize("fatal", [5, 11])
def test_killed_stage_gives_the_same_bytes(
    model_directory: Path, corpus: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """Guards against a resumed evaluation that differs from an undisturbed one (caches, seeds, torn lines)."""
    whole = run(model_directory, corpus, tmp_path / "whole")
    answer_each, calls = LocalAnswerer.answer_each, []

    def dying(self: LocalAnswerer, requests: list, known: frozenset[int]) -> Iterator[tuple[int, Answer]]:
        for found in answer_each(self, requests, known):
            calls.append(1)
            if len(calls) == fatal:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(LocalAnswerer, "answer_each", dying)
    with pytest.raises(KeyboardInterrupt):
        run(model_directory, corpus, tmp_path / "killed")
    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(
        LocalAnswerer,
        "answer_each",
        lambda self, requests, known: asked.append(len(requests) - len(known)) or answer_each(self, requests, known),
    )
    resumed = run(model_directory, corpus, tmp_path / "killed")
    for name in ("results.json", "samples.jsonl"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    total = sum(json.loads(line)["task"] != "" for line in (whole.path / "samples.jsonl").read_text().splitlines())
    assert sum(asked) == total - (fatal - 1)  # what had been answered, one request an item, was not asked again


def test_a_small_budget_still_scores_something(model_directory: Path, corpus: Artifact, tmp_path: Path) -> None:
    """Guards against an evaluation without bits per byte, in silence, where every document is over the budget."""
    draft = run(model_directory, corpus, tmp_path, tasks=["bits-per-byte"], bits_per_byte={"max_bytes": 500})
    assert draft.metrics["bits-per-byte.bits_per_byte"]["n"] == 1
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    polars.DataFrame({"id": [""], "text": [""], "source": [""]}).write_parquet(nothing / "validation.parquet")
    with pytest.raises(FoundlingError, match="no held-out text"):
        run(model_directory, Artifact.outside(nothing, "corpus"), tmp_path / "x", tasks=["bits-per-byte"])


def test_comparison_and_report_of_two_models(
    model_directory: Path, corpus: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a report that lacks a model, a task or a verdict, and analyses that are asked for and left out."""
    rows = [{"q": f"import os, x{n} =", "options": ["os", "import"], "gold": n % 2} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    spec = {"name": "pick", "version": 1, "data": {"file": "rows.jsonl"}, "kind": "choices", "prompt": "{{q}}"}
    (tmp_path / "pick.yaml").write_text(json.dumps({**spec, "choices": "options", "answer": "gold", "slice": "gold"}))
    other = tmp_path / "other"
    module = load(model_directory).module
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    save_module(module, other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((model_directory / name).read_bytes())
    tasks = ["bits-per-byte", str(tmp_path / "pick.yaml")]
    drafts = [
        run(path, corpus, tmp_path / path.name / "run", tasks=tasks, contamination=True)
        for path in (model_directory, other)
    ]
    results = json.loads((drafts[0].path / "results.json").read_text())
    assert results["tasks"]["pick"]["contamination"]["items"] == 40
    assert 0 <= results["tasks"]["pick"]["calibration"]["expected_calibration_error"] <= 1
    first, second = (Artifact.outside(draft.path, "evaluation") for draft in drafts)
    verdicts = {c.metric: c.verdict for c in compare(first, second)}
    assert verdicts["bits_per_byte"] == "worse" and "acc" in verdicts
    write_report({"first": first, "second": second}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(word in page for word in ("first", "second", "bits_per_byte", "worse", "pick", "Worst slices", "gzip"))


def test_unknown_task_is_refused_before_the_model_is_loaded(corpus: Artifact, tmp_path: Path) -> None:
    """Guards against minutes of loading before a misspelt task name is found."""
    empty = tmp_path / "not-a-model"
    empty.mkdir()
    with pytest.raises(FoundlingError, match="Did you mean 'syntax'"):
        run(empty, corpus, tmp_path, tasks=["sintax"])
