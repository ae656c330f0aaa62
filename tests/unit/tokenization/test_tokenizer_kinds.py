"""Every kind of tokenizer: any text in, the same text out (or [UNK]), and `transformers` loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundling.core.errors import FoundlingError
from foundling.tokenization.bulk import BulkEncoder
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.kinds import UNKNOWN
from foundling.tokenization.tokenizer import Tokenizer
from foundling.tokenization.train import train

TEXTS = ["the quick brown fox 1234 jumps over the lazy dog, twice\n", "MKTAYIAKQR the dogs run quickly 99"] * 5


def make(kind: str, **options: object) -> Tokenizer:
    return train(iter(TEXTS), TokenizerConfig(kind=kind, vocab_size=300, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kinds() -> dict[str, Tokenizer]:
    return {kind: make(kind) for kind in ("bpe", "unigram", "wordpiece", "bytes", "characters")}


@pytest.mark.parametrize("kind", ["bpe", "unigram", "bytes"])
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_byte_kinds_know_every_text(kinds: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = kinds[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    if kind == "bytes":
        assert len(ids) == len(text.encode())


def test_characters_and_words(kinds: dict[str, Tokenizer]) -> None:
    characters = kinds["characters"]
    assert characters.decode(characters.encode("MKT the")) == "MKT the"
    assert len(characters.encode("MKT the")) == 7
    assert characters.encode("é") == [characters.id_of(UNKNOWN)]
    words = kinds["wordpiece"]
    assert words.decode(words.encode("the quick dogs")) == "the quick dogs"


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "bytes", "characters"])
def test_special_tokens_files_and_bulk(kinds: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    tokenizer = kinds[kind]
    assert (tokenizer.eot_id, tokenizer.stop_ids) == (0, (2, 0))
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXTS[1], add_special_tokens=False)["input_ids"] == tokenizer.encode(TEXTS[1])
    encoder = BulkEncoder(tokenizer)
    encoder.check(TEXTS)
    ids, lengths = encoder.encode(TEXTS)
    assert ids.tolist() == [i for text in TEXTS for i in tokenizer.encode(text)] and len(lengths) == len(TEXTS)


def test_digits_and_further_special_tokens() -> None:
    tokenizer = make("bpe", split_digits=True, special_tokens=("[MASK]",))
    assert len(tokenizer.encode("1234")) == 4
    assert tokenizer.special_tokens["[MASK]"] == 3
    with pytest.raises(FoundlingError, match="too small for bpe"):
        train(iter(TEXTS), TokenizerConfig(vocab_size=100))


def test_whitespace_policies() -> None:
    """Runs of spaces are one token, or each its own."""
    text = ["def f():\n        return 1\n"] * 50
    made = {w: train(iter(text), TokenizerConfig(vocab_size=300, whitespace=w)) for w in ("runs", "single")}  # type: ignore[arg-type]
    spaces = {w: [t for t in tok.fast.get_vocab() if t.startswith(("ĠĠ", "ĊĠ"))] for w, tok in made.items()}
    assert spaces["runs"] and not spaces["single"]
    for tokenizer in made.values():
        assert tokenizer.decode(tokenizer.encode(text[0])) == text[0]
