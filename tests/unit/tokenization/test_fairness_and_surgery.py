"""Fairness numbers, and a vocabulary that grows without changing what is there."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from foundling.core.errors import FoundlingError
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.fairness import fairness, vocabulary_effect, write_page
from foundling.tokenization.surgery import extend, initial_rows
from foundling.tokenization.tokenizer import Tokenizer
from foundling.tokenization.train import train

PARALLEL = {"eng": ["hello user, the sum"] * 4, "ell": ["γεια σου, το άθροισμα"] * 4}


def test_a_language_that_the_tokenizer_never_saw_pays_more(tokenizer: Tokenizer, tmp_path: Path) -> None:
    costs = {cost.language: cost for cost in fairness({"ours": tokenizer}, PARALLEL)}
    assert costs["eng"].premium == 1 and costs["ell"].premium > 2
    assert costs["ell"].context_share == pytest.approx(1 / costs["ell"].premium, abs=1e-3)
    assert costs["ell"].tokens_per_sentence == len(tokenizer.encode(PARALLEL["ell"][0]))
    write_page(list(costs.values()), tmp_path / "fairness.html")
    assert "<svg" in (tmp_path / "fairness.html").read_text()


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
