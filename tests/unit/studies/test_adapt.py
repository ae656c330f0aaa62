"""`adapt`: the split, the search, the roads on a tiny model, and the advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.post_training.tiny_chat import make_directory

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Request, SamplingParams
from foundling.inference.model import load
from foundling.models.adapter_config import AdapterConfig
from foundling.models.adapters import attach
from foundling.studies.adapt import Attempt, _advice, adapt
from foundling.studies.adapt_config import AdaptConfig
from foundling.studies.adapt_roads import ROADS, Row
from foundling.studies.adapt_search import BM25, search_over


def _attempt(road: str, score: float, cost: float) -> Attempt:
    return Attempt(road, score, score - 0.05, score + 0.05, 1.0, 0.1, cost, cost)


def test_bm25_prefers_rare_shared_words() -> None:
    """Guards the ranking: a rare word counts for more than a common one, and ties keep their order."""
    search = BM25(["the sea is wide", "the cod is a fish", "the ship is on the sea", "a a a"])
    assert search.nearest("the cod", 1) == [1]
    assert search.nearest("sea", 2) == [0, 2]
    assert search.nearest("nothing here", 2) == [0, 1]


def test_the_advice_is_the_cheapest_that_is_good_enough() -> None:
    """Guards the recommendation, and that it says when fine-tuning is not the answer."""
    config = AdaptConfig(data="x", bar=0.8)
    prompts, tuned = _attempt("few-shot", 0.9, 0.2), _attempt("lora", 0.95, 0.1)
    assert "Fine-tuning is not the answer" in _advice([prompts, _attempt("full", 0.99, 9.0)], config)
    assert _advice([prompts, tuned], config).startswith("Use lora")
    short = _advice([_attempt("few-shot", 0.5, 0.1), tuned], config)
    assert "Prompting alone reaches 50.0%" in short
    assert "No road reaches" in _advice([_attempt("zero-shot", 0.1, 0.1)], config)


def test_every_road_on_a_tiny_model(tmp_path: Path) -> None:
    """Guards each road's path; a classifier must learn which of two words an input holds."""
    base = make_directory(tmp_path / "base")
    rows = [{"input": f"{i} {'sum' if i % 2 else 'words'}", "output": "even" if i % 2 else "odd"} for i in range(60)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "facts.txt").write_text("sum is even\n\nwords are odd")
    config = AdaptConfig(
        data=str(tmp_path / "task.jsonl"), documents=str(tmp_path / "facts.txt"), max_tokens=3, epochs=0.5, shots=1,
        samples=2, passages=1,
    )  # fmt: skip
    found = adapt(base, config)
    scores = {attempt.road: attempt.score for attempt in found.attempts}
    assert set(scores) == set(config.roads) and not found.skipped
    assert scores["classifier"] > 0.9
    assert found.advice.startswith("Use classifier")
    assert str(found).count("\n") >= 8 and json.dumps(found.to_json())


def test_vectors_find_what_is_said_alike(tmp_path: Path) -> None:
    """Guards the other search: a text is nearest to itself, and the road that uses it answers."""
    base = make_directory(tmp_path / "base")
    config = AdaptConfig(data="x", search="embeddings", embedder=str(base), shots=1, max_tokens=2)
    texts = ["the squares of the even numbers", "sum of words", "x ** 2"]
    assert [search_over(texts, config).nearest(text, 1) for text in texts] == [[0], [1], [2]]
    rows = [Row(text, "a") for text in texts]
    assert len(ROADS["few-shot"](base, rows, config)(texts[:2])) == 2


def test_the_engine_reads_a_learned_prompt(tmp_path: Path) -> None:
    """Guards virtual tokens in the cache: the engine's greedy answer is the one of whole forward passes."""
    model = load(make_directory(tmp_path / "base"))
    attach(model.module, AdapterConfig(method="prompt", virtual_tokens=3), 0)
    torch.nn.init.normal_(model.module.embedding.prompt)
    ids = [*model.module.embedding.virtual_ids, 5, 6, 7]
    params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    [done] = model.engine.generate([Request(ids, params)])
    for token in done.tokens:
        assert int(model.logits([ids])[0, -1].argmax()) == token
        ids.append(token)


@pytest.mark.parametrize(
    ("rows", "said"), [([{"input": "a"}], "task.jsonl:1"), ([{"input": "a", "output": "b"}], "too few")]
)
def test_mistakes_are_named(tmp_path: Path, rows: list[Any], said: str) -> None:
    """Guards the task file's door."""
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(FoundlingError, match=said):
        adapt(tmp_path, AdaptConfig(data=str(tmp_path / "task.jsonl")))
