"""Heads in place of words: classes, numbers, classes of words; whole, adapted, frozen; as Hugging Face reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.post_training.classify import Classifier, LabelledText, LabelSpace, pack
from foundling.tokenization.tokenizer import Tokenizer

from .tiny_chat import make_directory, run

TASKS: dict[str, list[dict[str, Any]]] = {
    "classes": [{"text": f"{i} {'sum' if i % 2 else 'words'}", "label": "even" if i % 2 else "odd"} for i in range(60)],
    "numbers": [{"prompt": f"{i} {'sum' if i % 2 else 'words'}", "label": 500 if i % 2 else 300} for i in range(60)],
    "words": [{"words": [f"{i}", "sum", "of", "s"], "labels": ["X", "A", "B", "B"]} for i in range(60)],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("tiny-chat"))


def _data(path: Path, rows: list[Any]) -> tuple[str, ...]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (str(path),)


@pytest.mark.parametrize(
    ("task", "fields"),
    [("classes", {"freeze": True, "learning_rate": 0.03}), ("numbers", {}), ("words", {"adapter": {"rank": 4}})],
)
def test_each_head_learns_its_task(base: Path, tmp_path: Path, task: str, fields: dict[str, Any]) -> None:
    """Guards the three heads and the three ways to train them, held out and beside the best constant answer."""
    data = _data(tmp_path / "rows.jsonl", TASKS[task])
    fields = {"steps": 25, "batch_size": 8, "learning_rate": 3e-3, "optimizer": "adamw"} | fields
    made = run("ClassifyConfig", base, tmp_path, data=data, task=task, **fields)
    again = Classifier(made.path)
    if task == "numbers":
        assert made.metrics["mean_absolute_error"] < made.metrics["mean_absolute_error_constant"] / 3
        assert 400 < again([[{"role": "user", "content": "77 sum"}]])[0] < 600
    else:
        assert made.metrics["accuracy"] > 0.95 > made.metrics["accuracy_constant"]
        expected = {"classes": ["even"], "words": [["X", "A"]]}[task]
        assert again([["77", "sum"] if task == "words" else "77 sum"]) == expected


def test_labels_stay_with_their_tokens(base: Path) -> None:
    """Guards the packing: texts change places in a row, and each label must move with its own."""
    space = LabelSpace("classes", ["a", "b", "c"])
    texts = [
        LabelledText([5, 6], [None, "a"], "1"), LabelledText([7, 8, 9, 10], ["b", None, None, "c"], "2"),
        LabelledText([11], ["b"], "3"),
    ]  # fmt: skip
    batch = pack(texts, space, 8, 0)
    scored = batch.loss_mask.bool()
    found = dict(zip(batch.tokens[scored].tolist(), batch.extra["label"][scored].tolist(), strict=True))
    assert found == {6: 0.0, 7: 1.0, 10: 2.0, 11: 1.0}


def test_transformers_gives_the_same_scores(base: Path, tmp_path: Path) -> None:
    """Guards the file's form: a classifier of ours is one of theirs."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    data = _data(tmp_path / "rows.jsonl", TASKS["classes"])
    made = run("ClassifyConfig", base, tmp_path, data=data, steps=2)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(made.path).eval()
    ids = Tokenizer.load(made.path).encode("77 sum")
    ours = Classifier(made.path)
    with torch.inference_mode():
        expected = theirs(input_ids=torch.tensor([ids])).logits[0]
        mine = ours.module(torch.tensor([ids]))[0, -1]
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("classes", {"text": "a"}, "the label None"),
        ("classes", {"label": "x"}, "holds no text"),
        ("numbers", {"text": "a", "label": "high"}, "finite number"),
        ("words", {"words": ["a", "b"], "labels": ["X"]}, "2 words and 1 labels"),
    ],
)
def test_bad_rows_are_named(base: Path, tmp_path: Path, task: str, row: Any, said: str) -> None:
    """Guards the door: file and line."""
    data = _data(tmp_path / "rows.jsonl", [*TASKS[task][:3], row])
    with pytest.raises(FoundlingError, match=r"rows\.jsonl:4") as caught:
        run("ClassifyConfig", base, tmp_path, data=data, task=task)
    assert said in str(caught.value)
