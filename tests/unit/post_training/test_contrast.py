"""Embeddings from pairs: they find what belongs together, other tools read them, and rows are refused by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.inference.model import load
from foundling.models.checkpoint import load_module, save_module
from foundling.models.pooling import PoolingConfig, read_pooling
from foundling.post_training.contrast import Texts, bm25, ranked
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.preparation import both_ways

from .tiny_chat import hashes, make_directory, run

WORDS = ["sum", "words", "square", "even", "numbers", "xs", "for", "in", "of", "the"]
ROWS = [
    {"query": f"{a} {b}", "passage": f"{b} and {a}, {number}", "negatives": [f"{a} and nothing"]}
    for number, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS if a != b)
]
FAST = {"steps": 60, "batch_size": 24, "learning_rate": 3e-3, "optimizer": "adamw", "held_out": 0.25, "context": 32}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("tiny-chat"))


def write(path: Path, rows: list[Any]) -> tuple[str, ...]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (str(path),)


@pytest.mark.parametrize("fields", [{}, {"adapter": {"rank": 4}, "pooling": "lasttoken"}])
def test_it_learns_what_belongs_together(base: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Guards the stage: held-out queries must find their passages, and the directory must embed as it was trained."""
    made = run("ContrastConfig", base, tmp_path, data=write(tmp_path / "rows.jsonl", ROWS), **FAST, **fields)
    found = made.metrics
    assert found["mrr"] > 2 * found["mrr_before"] and found["recall_at_1_low"] < found["recall_at_1"]
    pooling = read_pooling(made.path)
    assert (pooling.mode, pooling.max_tokens) == (fields.get("pooling", "mean"), 32)
    model = load(made.path)
    query, passages = model.embed(["sum words"]), model.embed([row["passage"] for row in ROWS])
    assert "sum" in ROWS[int((passages @ query[0]).argmax())]["passage"]


def test_transformers_gives_the_same_vectors(base: Path, tmp_path: Path) -> None:
    """Guards the file's form: what sentence-transformers would do with it, step by step."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    made = run("ContrastConfig", base, tmp_path, data=write(tmp_path / "rows.jsonl", ROWS), **FAST | {"steps": 2})
    modules = json.loads((made.path / "modules.json").read_text())
    assert [(part["path"], part["type"].rpartition(".")[2]) for part in modules] == [
        ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"),
    ]  # fmt: skip
    assert all((made.path / part["path"]).is_dir() for part in modules)
    longest = json.loads((made.path / "sentence_bert_config.json").read_text())["max_seq_length"]
    texts = ["the sum of words", "even " * 60]
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    theirs = transformers.AutoModel.from_pretrained(made.path).eval()
    for text, ours in zip(texts, load(made.path).embed(texts), strict=True):
        batch = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            mean = theirs(**batch).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(ours, (mean / mean.norm()).numpy(), atol=1e-5)


def test_the_form_that_newer_sentence_transformers_write(base: Path, tmp_path: Path) -> None:
    """Guards directories that release 6 saved: other names of the modules, the pooling as a word, no longest text."""
    modules = [("Transformer", ""), ("pooling.Pooling", "1_Pooling"), ("normalize.Normalize", "2_Normalize")]
    parts = [{"path": path, "type": f"sentence_transformers.base.modules.{kind}"} for kind, path in modules]
    (tmp_path / "1_Pooling").mkdir()
    for name, content in {
        "modules.json": parts,
        "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True},
        "sentence_bert_config.json": {"transformer_task": "feature-extraction"},
        "tokenizer_config.json": {"model_max_length": 512},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_pooling(tmp_path) == PoolingConfig(mode="lasttoken", normalize=True, max_tokens=512)
    (tmp_path / "1_Pooling/config.json").write_text('{"pooling_mode": "max"}')
    with pytest.raises(FoundlingError, match="pooling max is not supported"):
        read_pooling(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([*parts, {"path": "2_Dense", "type": "x.models.Dense"}]))
    with pytest.raises(FoundlingError, match="module Dense is not supported"):
        read_pooling(tmp_path)


@pytest.mark.parametrize("fields", [{}, {"single": "dropout", "dropout": 0.1}])
def test_single_texts_and_the_same_result_again(base: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Guards pairs made of one text, and that a run gives the same bytes again."""
    rows = [{"text": f"{row['query']} {row['passage']} " * 2} for row in ROWS]
    data = write(tmp_path / "rows.jsonl", rows)
    first, second = (
        run("ContrastConfig", base, tmp_path / n, data=data, **FAST | {"steps": 3}, **fields) for n in "ab"
    )
    assert first.metrics["pairs"] + first.metrics["held_out"] == len(ROWS)
    assert first.metrics == second.metrics and hashes(first) == hashes(second)


def test_ranks_count_every_right_passage_once() -> None:
    """Guards the numbers: a query with two passages is one question, and either answers it."""
    rows = [Texts("q", "a", (), "1"), Texts("q", "b", ("n",), "2"), Texts("r", "c", (), "3")]
    found = ranked(np.array([[3, 1], [0, 2]]), rows)  # passages: a, b, c, n
    assert (found["recall_at_1"], found["recall_at_10"], found["mrr"]) == (0.0, 1.0, 0.5)
    words = [Texts("red fish", "a red fish swims", (), "1"), Texts("blue sky", "the sky is blue", (), "2")]
    assert bm25(words) == {"recall_at_1_bm25": 1.0, "mrr_bm25": 1.0}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([1], "not an object"),
        ({"query": "a"}, "fields query"),
        ({"query": "a", "passage": " "}, "empty text"),
        ({"query": "a", "passage": "a"}, "the same text"),
        ({"query": "a", "passage": "b", "negatives": [3]}, "no text: 3"),
        ({"query": "a", "passage": "b", "negatives": 5}, "a text or a list of texts"),
        ({"query": "a", "passage": "b", "negatives": ["b"]}, "is the query or its passage"),
        ({"query": "a " * 200, "passage": "b"}, "more than the context of 32"),
    ],
)
def test_bad_rows_are_named(base: Path, tmp_path: Path, row: Any, said: str) -> None:
    """Guards the door: file and line."""
    data = write(tmp_path / "rows.jsonl", [*ROWS[:3], row])
    with pytest.raises(FoundlingError, match=r"rows\.jsonl:4") as caught:
        run("ContrastConfig", base, tmp_path, data=data, **FAST, too_long="refuse")
    assert said in str(caught.value)


def test_what_is_taught_to_write_must_read_left_to_right(base: Path, tmp_path: Path) -> None:
    """Guards against tuning that looks ahead: an encoder learns vectors, and every stage that writes refuses it."""
    save_module(both_ways(load_module(base)), tmp_path / "encoder")
    Tokenizer.load(base).save(tmp_path / "encoder")
    with pytest.raises(FoundlingError, match="sees both ways"):
        run("SFTConfig", tmp_path / "encoder", tmp_path / "sft", steps=1)
    data = write(tmp_path / "rows.jsonl", ROWS)
    made = run("ContrastConfig", tmp_path / "encoder", tmp_path / "contrast", data=data, **FAST)
    assert made.metrics["mrr"] > 2 * made.metrics["mrr_before"]


def test_held_out_pairs_are_not_trained_on(base: Path, tmp_path: Path) -> None:
    """Guards the score: data that gives every pair both ways would show the held-out ones turned round."""
    both = [{"query": f"{a} {b}", "passage": f"{b} {a}."} for a in WORDS for b in WORDS]
    both += [{"query": row["passage"], "passage": row["query"]} for row in both]
    made = run("ContrastConfig", base, tmp_path, data=write(tmp_path / "rows.jsonl", both), **FAST | {"steps": 1})
    found, turned = made.metrics, made.metrics["counted"]["a held-out pair turned round"]
    assert turned > 20 and found["pairs"] + found["held_out"] + turned == len(both)


def test_settings_that_would_teach_nothing_are_refused(base: Path, tmp_path: Path) -> None:
    """Guards against contrast within micro-batches, SimCSE without dropout, and a single row."""
    data = write(tmp_path / "rows.jsonl", ROWS[:1])
    for fields, said in [
        ({"micro_batch": 4}, "recompute"),
        ({"single": "dropout"}, "set dropout"),
        ({}, "too few"),
        ({"context": 512}, "256"),
    ]:
        with pytest.raises(FoundlingError, match=said):
            run("ContrastConfig", base, tmp_path, data=data, **FAST | fields)
