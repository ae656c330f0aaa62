"""Fairness numbers, and a vocabulary that grows without changing what is there."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from foundling.cli.main import main
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.models.build import build
from foundling.models.checkpoint import load_module, save_module
from foundling.models.presets import preset
from foundling.tokenization import extend as extend_stage
from foundling.tokenization.config import ExtendConfig, TokenizerConfig
from foundling.tokenization.fairness import fairness, read_parallel, vocabulary_effect, write_page
from foundling.tokenization.surgery import _merge, extend, initial_rows, learn_merges
from foundling.tokenization.tokenizer import Tokenizer
from foundling.tokenization.train import train

PARALLEL = {"eng": ["hello user, the sum"] * 4, "ell": ["γεια σου, το άθροισμα"] * 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Artifact:
    """A small model directory with that tokenizer."""
    path = tmp_path_factory.mktemp("model")
    save_module(build(preset("foundling-1m", vocab_size=tokenizer.vocab_size), seed=0), path)
    tokenizer.save(path)
    return Artifact.outside(path, "model")


def test_a_language_that_the_tokenizer_never_saw_pays_more(tokenizer: Tokenizer, tmp_path: Path) -> None:
    costs = {cost.language: cost for cost in fairness({"ours": tokenizer}, PARALLEL)}
    assert costs["eng"].premium == 1 and costs["ell"].premium > 2
    assert costs["ell"].context_share == pytest.approx(1 / costs["ell"].premium, abs=1e-3)
    assert costs["ell"].tokens_per_sentence == len(tokenizer.encode(PARALLEL["ell"][0]))
    write_page(list(costs.values()), tmp_path / "fairness.html")
    assert "<svg" in (tmp_path / "fairness.html").read_text()


def test_sentences_with_their_own_translations(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Each language beside its own sentences in English: what FLORES v1 looks like."""
    rows = [{"lang": "ell", "text": "γεια σου", "eng": "hello"}, {"lang": "fra", "text": "bonjour", "eng": "good day"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    texts, beside = read_parallel(path, "eng")
    assert texts["eng"] == ["hello", "good day"] and beside["fra"] == ["good day"]
    costs = {c.language: c for c in fairness({"ours": tokenizer}, texts, "eng", beside)}
    expected = len(tokenizer.encode("bonjour")) / len(tokenizer.encode("good day"))
    assert costs["fra"].premium == pytest.approx(expected, abs=1e-4)
    (tmp_path / "short.jsonl").write_text(
        '{"lang": "a", "text": "x"}\n{"lang": "a", "text": "y"}\n{"lang": "eng", "text": "z"}'
    )
    with pytest.raises(FoundlingError, match="a has 2 texts where eng has 1"):
        read_parallel(tmp_path / "short.jsonl", "eng")
    path.write_text('{"language": "a"}')
    with pytest.raises(FoundlingError, match="line 1 is no parallel text"):
        read_parallel(path, "eng")


def test_the_verb(tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer.save(tmp_path / "mine")
    rows = [{"lang": lang, "text": "\n".join(texts)} for lang, texts in PARALLEL.items()]
    path = tmp_path / "parallel.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    arguments = [str(tmp_path / "mine"), "--parallel", str(path), "--html", str(tmp_path / "f.html")]
    main(["fairness", *arguments, "--what-if", "280", "--json"])
    found = json.loads(capsys.readouterr().out)["costs"]
    assert {(c["tokenizer"].rpartition("/")[2], c["language"]) for c in found} == {
        (name, lang) for name in ("mine", "mostly eng, 280 tokens", "all equal, 280 tokens") for lang in PARALLEL
    }
    assert "At a glance" in (tmp_path / "f.html").read_text()
    with pytest.raises(SystemExit):
        main(["fairness", *arguments, "--languages", "xyz"])
    assert "no text in xyz" in capsys.readouterr().err


def test_rebalancing_the_vocabulary_lowers_the_premium() -> None:
    shares = {"english": {"eng": 1.0, "ell": 0.0}, "equal": {"eng": 1.0, "ell": 1.0}}
    costs = {(c.tokenizer, c.language): c.premium for c in vocabulary_effect(PARALLEL, [280], shares)}
    assert costs["equal, 280 tokens", "ell"] < costs["english, 280 tokens", "ell"]


def test_mistakes(tokenizer: Tokenizer) -> None:
    with pytest.raises(FoundlingError, match="reference language"):
        fairness({"ours": tokenizer}, PARALLEL, "fra")
    with pytest.raises(FoundlingError, match="no text in xx"):
        fairness({"ours": tokenizer}, {**PARALLEL, "xx": []})


@pytest.mark.skipif("FOUNDLING_DATA" not in os.environ, reason="needs FOUNDLING_DATA")
def test_gpt2_on_the_declaration_of_human_rights() -> None:
    """GPT-2's tokenizer was made for English: Burmese readers pay about ten times as much."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    root = Path(os.environ["FOUNDLING_DATA"])
    vocabulary = json.loads(gzip.decompress((root / "vectors" / "gpt2_vocab.json.gz").read_bytes()))
    lines = gzip.decompress((root / "vectors" / "gpt2_merges.txt.gz").read_bytes()).decode().splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    fast = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    rows = map(json.loads, gzip.decompress((root / "text" / "udhr2.jsonl.gz").read_bytes()).splitlines())
    udhr = {row["lang"]: [row["text"]] for row in rows}
    wanted = {code: udhr[code] for code in ("eng", "fra", "rus", "mya", "hin") if code in udhr}
    costs = {cost.language: cost for cost in fairness({"gpt2": Tokenizer(fast, {})}, wanted)}
    assert len(costs) >= 4
    assert costs["eng"].bytes_per_token > 3 and costs["fra"].premium > 1.3 and costs["rus"].premium > 3
    if "mya" in costs:
        assert costs["mya"].premium > 8


def test_surgery_adds_words_and_changes_nothing_else(tokenizer: Tokenizer) -> None:
    domain = ["phosphatidylinositol kinase phosphatidylinositol kinase "] * 5
    larger, made_of = extend(tokenizer, domain, 30)
    assert larger.vocab_size == tokenizer.vocab_size + len(made_of) and len(made_of) > 20
    assert len(larger.encode(domain[0])) < len(tokenizer.encode(domain[0])) / 3
    for text in ("hello world, the sum of two numbers", "def add(a, b):\n    return a + b"):
        assert larger.encode(text) == tokenizer.encode(text)
    assert larger.decode(larger.encode(domain[0])) == domain[0]
    assert larger.special_tokens == tokenizer.special_tokens
    for number, ids in enumerate(made_of):
        assert tokenizer.decode(ids) == larger.token_bytes(tokenizer.vocab_size + number).decode()


def test_surgery_goes_on_where_training_stopped() -> None:
    """300 tokens and 20 more are the 320 that training at once gives (ties aside: the text has few)."""
    text = ["the quick brown fox jumps over the lazy dog and the quick cat " * 3, "quick quick the dogs jumping"]
    small, large = (train(iter(text), TokenizerConfig(vocab_size=size)) for size in (275, 285))
    grown, _ = extend(small, text, 10)
    assert len(grown.encode(text[0])) <= len(large.encode(text[0])) * 1.1


def test_new_rows_are_the_mean_of_their_pieces() -> None:
    weight = np.arange(12.0).reshape(4, 3)
    assert initial_rows(weight, [[0, 1], [3]]).tolist() == [[1.5, 2.5, 3.5], [9.0, 10.0, 11.0]]
    assert initial_rows(weight, []).shape == (0, 3)


@pytest.mark.parametrize("initialise", ["mean", "random"])
def test_a_model_grows_with_its_tokenizer(
    model: Artifact, tokenizer: Tokenizer, tmp_path: Path, initialise: str
) -> None:
    """Old text is read and predicted as before; a new token starts as the mean of what it replaces."""
    texts = ["phosphatidylinositol kinase phosphatidylinositol kinase "] * 5
    for split in ("train", "validation"):
        pl.DataFrame({"text": texts}).write_parquet(tmp_path / f"{split}.parquet")
    draft = Draft(tmp_path / "grown", tmp_path / "scratch", "key")
    draft.path.mkdir()
    config = ExtendConfig(tokens=30, initialise=initialise)
    extend_stage.build(config, Inputs({"corpus": Artifact.outside(tmp_path, "corpus"), "model": model}), draft)
    old, new = load_module(model.path), load_module(draft.path)
    larger = Tokenizer.load(draft.path)
    assert larger.vocab_size == new.config.vocab_size == tokenizer.vocab_size + draft.metrics["new_tokens"]
    assert draft.metrics["validation_bytes_per_token_after"] > 3 * draft.metrics["validation_bytes_per_token_before"]
    ids = torch.tensor([tokenizer.encode("hello user, the sum")])
    assert larger.encode("hello user, the sum") == ids[0].tolist()
    with torch.no_grad():
        torch.testing.assert_close(new(ids)[..., : tokenizer.vocab_size], old(ids)[..., : tokenizer.vocab_size])
    made_of = tokenizer.encode(larger.token_bytes(tokenizer.vocab_size).decode())
    mean = old.embedding.weight[made_of].mean(0)
    assert torch.allclose(new.embedding.weight[tokenizer.vocab_size], mean, atol=1e-6) == (initialise == "mean")


def test_merges_equal_those_of_counting_afresh() -> None:
    """The queue of counts gives what counting all pairs after every merge gives."""
    rng = np.random.default_rng(0)
    words = Counter(tuple(rng.choice(list("abcd"), rng.integers(2, 9))) for _ in range(300))
    parts = {tuple(map(str, word)): n for word, n in words.items()}
    expected, current = [], [(list(word), n) for word, n in parts.items()]
    for _ in range(40):
        counts: Counter[tuple[str, str]] = Counter()
        for word, n in current:
            for pair in pairwise(word):
                counts[pair] += n
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        expected.append(best)
        current = [(_merge(word, best), n) for word, n in current]
    assert learn_merges(Counter(parts), 40) == expected
