"""Calibration, perturbed questions, contamination, rankings, judging and text metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars
import pytest

from foundling.core.errors import FoundlingError
from foundling.corpus.columns import FlatText
from foundling.corpus.words import word_hashes
from foundling.evaluation import calibration
from foundling.evaluation.contamination import found_in, split_scores
from foundling.evaluation.judge import Pair, judge
from foundling.evaluation.perturbations import CHANGES, paraphrase, perturbed
from foundling.evaluation.rankings import Judgement, cohens_kappa, elo
from foundling.evaluation.requests import (
    Answer,
    Answerer,
    Generate,
    GenerateAnswer,
    Loglikelihood,
    LoglikelihoodAnswer,
    Request,
)
from foundling.evaluation.running import run_task
from foundling.evaluation.scores import summarise
from foundling.evaluation.task import Metric, Outcome, Task
from foundling.evaluation.task_file import read_task_file
from foundling.evaluation.tasks.choices import Choices
from foundling.evaluation.tasks.generation import Generation
from foundling.evaluation.text_metrics import corpus_score, sentence_score


def test_calibration_of_an_honest_and_a_boastful_model() -> None:
    """Guards against a calibration error that is small for everyone, and bins weighted equally."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 4000)
    correct = rng.random(4000) < confidence
    assert calibration.expected_calibration_error(confidence, correct) < 0.03
    assert calibration.expected_calibration_error(np.ones(4000), correct) == pytest.approx(0.35, abs=0.03)
    diagram = calibration.reliability_diagram(confidence, correct)
    assert sum(b.accuracy.n for b in diagram) == 4000 and diagram[0].low >= 0.2
    assert calibration.expected_calibration_error([], []) == 0.0


def test_selective_answering() -> None:
    """Guards against coverage counted on the answered items, and ties of confidence cut apart."""
    confidence, correct = [0.9, 0.9, 0.8, 0.6], [1, 1, 0, 1]
    rows = {row.threshold: row for row in calibration.selective_answering(confidence, correct, (0.0, 0.85))}
    assert rows[0.85].coverage == 0.5 and rows[0.85].errors.value == 0.0 and rows[0.0].errors.value == 0.25
    assert calibration.coverage_within_budget(confidence, correct, 0.0) == 0.5
    assert calibration.coverage_within_budget(confidence, correct, 0.25) == 1.0
    assert calibration.coverage_within_budget([0.9, 0.9], [1, 0], 0.1) == 0.0


class Longest(Answerer):
    """Prefers the longest option; case and typos cannot move it, unless `fragile`."""

    def __init__(self, fragile: bool = False) -> None:
        self.fragile = fragile

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        assert isinstance(request, Loglikelihood) and isinstance(request.context, str)
        turned = self.fragile and request.context.islower()
        size = len(request.continuation)
        return LoglikelihoodAnswer(float(-size if turned else size), False, 1)


@pytest.fixture
def choices(tmp_path: Path) -> Choices:
    rows = [
        {"q": f"Which Word number {n} is the longest one here?", "options": ["a", "b" * (n + 2)], "gold": 1}
        for n in range(6)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    spec = {"name": "words", "version": 1, "data": {"file": "rows.jsonl"}, "kind": "choices", "prompt": "{{q}}"}
    (tmp_path / "words.yaml").write_text(json.dumps({**spec, "choices": "options", "answer": "gold"}))
    return Choices(*read_task_file(str(tmp_path / "words.yaml")))


def test_perturbed_questions_find_fragile_models(choices: Choices, tmp_path: Path) -> None:
    """Guards against variants graded against the original order of options, and changes that change nothing."""
    task = perturbed(choices, seed=0)
    scores = []
    for number, model in enumerate((Longest(), Longest(fragile=True))):
        outcomes = run_task(task, task.items(), model, 4, tmp_path / str(number))
        metrics = summarise(task, outcomes, seed=0)["metrics"]
        scores.append({name: metric["value"] for name, metric in metrics.items()})
    assert set(scores[0].values()) == {1.0}
    assert scores[1]["acc"] == 1.0 and scores[1]["same (lower case)"] == 0.0 and scores[1]["acc (every change)"] == 0.0
    assert scores[1]["same (option order)"] == 1.0
    rng = np.random.default_rng(0)
    text = "The quick brown fox jumps over the lazy dog"
    for change in CHANGES.values():
        changed = change(text, rng)
        assert changed != text
        if change is not paraphrase:
            assert sorted(changed.lower().replace(" ", "")) == sorted(text.lower().replace(" ", ""))


def test_contamination() -> None:
    """Guards against leaks hidden by layout and case, and against short items found everywhere."""
    leaked = "What is the name of the largest city on the river that flows through the old capital?"
    clean = "How many apples does Mary have after she gives three of them to her brother on Sunday morning?"
    training = word_hashes(
        FlatText.of(polars.Series([f"x y z\n\n  {leaked.upper()}!! and so on", "other words entirely"]))
    )
    assert found_in([leaked, clean, "yes", ""], training) == [True, False, False, False]
    task = Task("t", 1, (Metric("acc"),))
    outcomes = [Outcome(str(i), {"acc": float(i == 0)}, {"question": q}) for i, q in enumerate((leaked, clean))]
    parts = split_scores(task, outcomes, training, seed=0)
    assert parts["dirty_items"] == 1 and parts["dirty"]["acc"]["value"] == 1.0 and parts["clean"]["acc"]["value"] == 0.0
    assert split_scores(task, [Outcome("a", {"acc": 1.0}, {})], training, seed=0) == {}


def test_elo_recovers_strengths() -> None:
    """Guards against ratings with the wrong sign or scale, and length that is taken for quality."""
    rng = np.random.default_rng(1)
    strengths = {"weak": 900.0, "middle": 1000.0, "strong": 1100.0}
    games = []
    for _ in range(3000):
        a, b = rng.choice(list(strengths), 2, replace=False)
        share = 1 / (1 + 10 ** ((strengths[b] - strengths[a]) / 400))
        games.append(Judgement(str(a), str(b), "a" if rng.random() < share else "b"))
    ratings = elo(games, resamples=50)
    for name, truth in strengths.items():
        assert ratings[name].value == pytest.approx(truth, abs=25) and ratings[name].low < ratings[name].value
    wordy = [Judgement("wordy", "short", "a", 2000, 100) for _ in range(50)]
    wordy += [Judgement("wordy", "short", "b" if i % 2 else "a", 500, 500) for i in range(50)]
    assert elo(wordy, resamples=5)["wordy"].value < elo(wordy, resamples=5, control_length=False)["wordy"].value - 50
    only_wins = elo([Judgement("a", "b", "a")] * 5, resamples=5)
    assert 1000 < only_wins["a"].value < 3000
    with pytest.raises(FoundlingError, match="no judgements"):
        elo([])


def test_kappa() -> None:
    """Guards against plain agreement reported as kappa."""
    assert cohens_kappa("aabb", "aabb") == 1.0 and cohens_kappa("aabb", "abab") == 0.0
    assert cohens_kappa([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15, [1] * 25 + [0] * 25) == pytest.approx(0.4)


class Biased(Answerer):
    """A judge that always says A, except when one answer holds "good"."""

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        assert isinstance(request, Generate)
        text = request.prompt[0][1] if not isinstance(request.prompt, str) else request.prompt
        first, second = text.split("Answer A:\n")[1].split("Answer B:\n")
        verdict = "It is A." if "good" in first else "After a thought: B" if "good" in second else "A"
        return GenerateAnswer((verdict if "mumble" not in text else "hm",), ("stop",), 1, 1)


def test_judge_swaps_positions() -> None:
    """Guards against a judge's love of the first place, or its use of an article, counted as a model's win."""
    pairs = [
        Pair("p", "x", "good", "y", "bad"),
        Pair("p", "x", "bad", "y", "good"),
        Pair("p", "x", "same", "y", "same too"),
        Pair("mumble", "x", "1", "y", "2"),
    ]
    verdicts = judge(pairs, Biased())
    assert [j.winner for j in verdicts.judgements] == ["a", "b", "tie", "tie"]
    assert verdicts.inconsistent == 1 and verdicts.unreadable == 1


def test_text_metrics_are_the_libraries() -> None:
    """Guards against a metric that is nearly sacrebleu's."""
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    answers = ["The cat sat on the mat.", "A dog barked loudly at night"]
    accepted = [["The cat is sitting on the mat.", "A cat sat on a mat."], ["The dog barked at night."]]
    columns = [["The cat is sitting on the mat.", "The dog barked at night."], ["A cat sat on a mat."] + accepted[1]]
    assert corpus_score("bleu", answers, accepted) == sacrebleu.corpus_bleu(answers, columns).score / 100
    assert corpus_score("chrf", answers, accepted) == sacrebleu.corpus_chrf(answers, columns).score / 100
    assert sentence_score("chrf", "x", ["x"]) == pytest.approx(1.0) and sentence_score("rouge-l", "a b", ["a c"]) == 0.5


def test_a_translation_has_the_corpus_score_beside_the_mean(tmp_path: Path) -> None:
    """Guards against the mean of sentence scores passed off as the BLEU that papers give."""
    pytest.importorskip("sacrebleu")
    truths, texts = ["The dog barked at night.", "It rained."], ["The dog barked at night.", "It rained all day long."]
    rows = [{"q": "?", "a": truth} for truth in truths]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"name": "t", "version": 1, "data": {"file": "rows.jsonl"}, "kind": "generate", "prompt": "{{q}}"}
    (tmp_path / "t.yaml").write_text(json.dumps({**spec, "answer": "a", "extract": {"b": {"match": "bleu"}}}))
    task = Generation(*read_task_file(str(tmp_path / "t.yaml")))
    outcomes = task.grade(task.items(), [[GenerateAnswer((text,), ("stop",), 1, 1)] for text in texts])
    found = task.corpus_scores(outcomes)
    assert found == {"b": corpus_score("bleu", texts, [[truth] for truth in truths])}
    assert found["b"] != pytest.approx(np.mean([outcome.metrics["b"] for outcome in outcomes]), abs=0.01)
