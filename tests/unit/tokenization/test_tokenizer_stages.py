"""The stages `tokenizer` and `tokenize`, and the bulk encoder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.core.artifacts import Artifact, Draft
from foundling.core.stages import Inputs
from foundling.tokenization import encode, train
from foundling.tokenization.bulk import BulkEncoder
from foundling.tokenization.config import TokenizeConfig, TokenizerConfig
from foundling.tokenization.tokenizer import Tokenizer

DOCUMENTS = [f"def f{n}(x):\n    return x * {n}  # naïve <|im_end|> 日本 {'word ' * n}\n" for n in range(60)]


def artifact(path: Path, kind: str) -> Artifact:
    return Artifact(path, {"key": "k", "kind": kind, "files": {}, "metrics": {}, "config": {}, "inputs": {}})


def draft(path: Path) -> Draft:
    path.mkdir(parents=True, exist_ok=True)
    return Draft(path, path / "scratch", "key")


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split, texts in (("train", DOCUMENTS[:50]), ("validation", DOCUMENTS[50:])):
        pl.DataFrame({"id": texts, "text": texts, "source": texts, "meta": texts}).write_parquet(
            folder / f"{split}.parquet"
        )
    return artifact(folder, "corpus")


@pytest.mark.parametrize("pre_tokenizer", ["gpt2", "llama3"])
def test_a_corpus_becomes_token_files(corpus: Artifact, tmp_path: Path, pre_tokenizer: str) -> None:
    config = TokenizerConfig(vocab_size=300, pre_tokenizer=pre_tokenizer)
    made = draft(tmp_path / "tokenizer")
    train.build(config, Inputs({"corpus": corpus}), made)
    again = draft(tmp_path / "tokenizer2")
    train.build(config, Inputs({"corpus": corpus}), again)
    names = sorted(p.name for p in made.path.iterdir())
    assert names == ["report.json", "tokenizer.json", "tokenizer_config.json"]
    assert [(made.path / n).read_bytes() for n in names] == [(again.path / n).read_bytes() for n in names]
    assert made.metrics["validation_bytes_per_token"] > 1

    ports = {"corpus": corpus, "tokenizer": artifact(made.path, "tokenizer")}
    digests = []
    for fast, batch_bytes in ((True, 8_000_000), (False, 500)):
        tokens = draft(tmp_path / f"tokens-{fast}")
        encode.build(TokenizeConfig(fast=fast, batch_bytes=batch_bytes), Inputs(ports), tokens)
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tokens.path.iterdir()})
    assert digests[0] == digests[1]
    _check_token_files(tokens.path, Tokenizer.load(tokens.path))


def _check_token_files(path: Path, tokenizer: Tokenizer) -> None:
    about = json.loads((path / "tokens.json").read_text())
    for split, texts in (("train", DOCUMENTS[:50]), ("validation", DOCUMENTS[50:])):
        stream = np.fromfile(path / f"{split}.bin", about["dtype"])
        index, sizes = np.load(path / f"{split}.index.npy"), np.load(path / f"{split}.bytes.npy")
        assert about["splits"][split] == {"documents": len(texts), "tokens": len(stream), "bytes": int(sizes.sum())}
        sources = np.load(path / f"{split}.source.npy")
        assert len(sources) == len(texts) and set(sources) == set(range(len(about["source_names"][split])))
        for number, text in enumerate(texts):
            ids = stream[index[number] : index[number + 1]].tolist()
            assert ids == [about["eot_id"], *tokenizer.encode(text)] and sizes[number] == len(text.encode())


def test_too_little_text_for_the_vocabulary(
    corpus: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer is as large as the text allows, and says so."""
    made = draft(tmp_path / "t")
    train.build(TokenizerConfig(vocab_size=50_000), Inputs({"corpus": corpus}), made)
    assert 256 < made.metrics["vocab_size"] < 50_000
    assert "gives only" in capsys.readouterr().err


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=6))
@settings(max_examples=200)
def test_the_fast_encoder_agrees_on_any_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    encoder = BulkEncoder(tokenizer)
    assert encoder.is_fast, "gigatoken does not load the tokenizer"
    ids, lengths = encoder.encode(texts)
    expected = tokenizer.encode_batch(texts)
    assert lengths.tolist() == list(map(len, expected)) and ids.tolist() == [i for e in expected for i in e]


def test_a_fast_encoder_that_differs_is_dropped(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another vocabulary behind the fast one stands for any bug in it."""
    warnings: list[str] = []
    monkeypatch.setattr("foundling.core.progress.say", warnings.append)
    monkeypatch.setattr("foundling.tokenization.bulk._load_fast", lambda _: _wrong())
    encoder = BulkEncoder(tokenizer)
    assert encoder.is_fast
    assert not encoder.check(["hello world"]) and not encoder.is_fast
    assert warnings and "gigatoken differs" in warnings[0]
    assert encoder.encode(["hello world"])[0].tolist() == tokenizer.encode("hello world")


def _wrong() -> object:
    import gigatoken

    return gigatoken.Tokenizer.from_json(
        train.train(iter(["zz yy xx " * 10]), TokenizerConfig(vocab_size=262)).fast.to_str()
    )
