"""Outcomes to scores and back, comparisons, and resumable blocks, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from foundling.core.errors import FoundlingError
from foundling.evaluation.compare import compare_outcomes
from foundling.evaluation.requests import Answer, Answerer, Generate, GenerateAnswer, Request
from foundling.evaluation.running import run_task
from foundling.evaluation.scores import outcome_line, parse_outcome, summarise
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task


@dataclass
class Parrot:
    """A task whose items are right when the model repeats them."""

    n: int
    graded: int = 0

    @property
    def task(self) -> Task:
        return Task("parrot", 1, (Metric("right"), Metric("bits", "ratio", higher_is_better=False)))

    def items(self) -> Sequence[Item]:
        return [Item(f"i{k}", f"word {k}", "even" if k % 2 == 0 else "odd") for k in range(self.n)]

    def requests(self, item: Item) -> Sequence[Request]:
        return [Generate(item.data)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        self.graded += len(items)
        found = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, GenerateAnswer)
            metrics = {
                "right": float(answer.texts[0] == item.data),
                "bits": (len(item.data) * 2.0, float(len(item.data))),
            }
            found.append(Outcome(item.id, metrics, {"answer": answer.texts[0]}, item.slice))
        return found

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        return {"right": [Reference("silence", 0.0)]}


@dataclass
class Echo(Answerer):
    """Answers with the prompt, wrong for the last digit 3; dies after `die_after` calls."""

    die_after: int | None = None
    calls: list[int] = field(default_factory=list)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        self.calls.append(len(requests))
        if self.die_after is not None and len(self.calls) > self.die_after:
            raise KeyboardInterrupt
        return [self._one(r) for r in requests]

    def _one(self, request: Request) -> Answer:
        assert isinstance(request, Generate) and isinstance(request.prompt, str)
        return GenerateAnswer(("wrong" if request.prompt.endswith("3") else request.prompt,), ("stop",), 1, 1)


def test_resume_repeats_only_the_torn_block(tmp_path: Path) -> None:
    """Guards against asking finished blocks again, and against a torn last line ending up in the result."""
    undisturbed = run_task(Parrot(20), Parrot(20).items(), Echo(), 4, tmp_path / "a")
    saved = tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        run_task(Parrot(20), Parrot(20).items(), Echo(die_after=2), 4, saved)
    saved.write_text(saved.read_text() + outcome_line("parrot", undisturbed[8]) + '{"task": "parr')
    again = Echo()
    assert run_task(Parrot(20), Parrot(20).items(), again, 4, saved) == undisturbed
    assert again.calls == [4, 4, 4]
    assert saved.read_text() == (tmp_path / "a").read_text()
    finished = Echo()
    assert run_task(Parrot(20), Parrot(20).items(), finished, 4, saved) == undisturbed and not finished.calls


def test_summary_has_interval_reference_and_slices(tmp_path: Path) -> None:
    """Guards against a score without its interval, n or reference, and slices that do not add up to the whole."""
    parrot = Parrot(30)
    summary = summarise(parrot, run_task(parrot, parrot.items(), Echo(), 7, tmp_path / "s"), seed=0)
    right = summary["metrics"]["right"]
    assert right["value"] == pytest.approx(27 / 30) and right["low"] < right["value"] < right["high"]
    assert right["reference"] == [{"name": "silence", "value": 0.0}]
    assert sum(s["right"]["n"] for s in summary["slices"].values()) == right["n"] == 30
    assert summary["slices"]["even"]["right"]["value"] == 1.0
    assert summary["metrics"]["bits"]["value"] == pytest.approx(2.0)
    json.dumps(summary, allow_nan=False)


def test_outcomes_survive_their_file() -> None:
    """Guards against floats, pairs or line breaks changed by a round trip (a resumed run must give equal bytes)."""
    outcome = Outcome("a\n", {"x": 0.1 + 0.2, "r": (1 / 3, 7.0)}, {"answer": "\u2028 é\n"}, "s", ("truncated",))
    line = outcome_line("t", outcome)
    assert line.count("\n") == 1 and parse_outcome(line) == ("t", outcome)


def _results(*metrics: Metric, version: int = 1) -> dict:
    specs = {m.name: {"kind": m.kind, "higher_is_better": m.higher_is_better} for m in metrics}
    return {"tasks": {"t": {"version": version, "metrics": specs}}}


def _outcomes(name: str, values: Sequence[object]) -> dict:
    return {"t": {str(i): Outcome(str(i), {name: v}, {}) for i, v in enumerate(values)}}  # type: ignore[dict-item]


def test_compare_verdicts() -> None:
    """Guards against calling noise a gain, and against the wrong sign for metrics that should be low."""
    rng = np.random.default_rng(0)
    base = (rng.random(200) < 0.5).astype(float)
    better = np.maximum(base, rng.random(200) < 0.3)
    results = _results(Metric("right"))
    up = compare_outcomes(results, _outcomes("right", list(base)), results, _outcomes("right", list(better)))[0]
    assert up.verdict == "better" and up.low > 0 and up.p_adjusted < 0.001
    same = compare_outcomes(results, _outcomes("right", list(base)), results, _outcomes("right", list(base)))[0]
    assert same.verdict == "cannot tell" and same.items_to_tell is None and same.p == 1.0
    sizes = rng.integers(100, 5000, 40)
    bits_a = [(float(2.0 * s + rng.normal(0, 10)), float(s)) for s in sizes]
    bits_b = [(bits * 0.97, size) for bits, size in bits_a]
    low = _results(Metric("bpb", "ratio", higher_is_better=False))
    down = compare_outcomes(low, _outcomes("bpb", bits_a), low, _outcomes("bpb", bits_b))[0]
    assert down.verdict == "better" and down.difference == pytest.approx(-0.06, abs=0.001)


def test_compare_pairs_by_id_and_says_what_would_tell() -> None:
    """Guards against comparing the n-th items of two differently ordered runs, and an unhelpful "cannot tell"."""
    results = _results(Metric("right"))
    a = {"t": {str(i): Outcome(str(i), {"right": float(i % 3 == 0)}, {}) for i in range(30)}}
    b = {"t": {str(i): Outcome(str(i), {"right": float(i % 3 == 0 or i == 4)}, {}) for i in reversed(range(40))}}
    found = compare_outcomes(results, a, results, b)[0]
    assert found.n == 30 and found.difference == pytest.approx(1 / 30)
    assert found.verdict == "cannot tell" and found.items_to_tell is not None and found.items_to_tell > 100
    assert "items would tell" in str(found)


def test_compare_refuses_other_versions_and_no_overlap() -> None:
    """Guards against a table of scores that were not measured the same way."""
    one, two = _results(Metric("right")), _results(Metric("right"), version=2)
    with pytest.raises(FoundlingError, match="version 1 in one and 2"):
        compare_outcomes(one, _outcomes("right", [1.0]), two, _outcomes("right", [1.0]))
    with pytest.raises(FoundlingError, match="no task in common"):
        compare_outcomes(one, {}, {"tasks": {"u": {}}}, {})
