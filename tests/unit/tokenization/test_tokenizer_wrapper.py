"""The wrapper around `tokenizers`: round trips, control tokens, streaming, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from foundling.core.errors import FoundlingError
from foundling.tokenization.tokenizer import TextStream, Tokenizer

TEXT = st.text(st.characters(codec="utf-8"), max_size=80)


def sentencepiece_like() -> Tokenizer:
    """A unigram tokenizer with a space mark, which writes a space before a text's first word."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁he", -3.0), ("llo", -3.0), ("é", -4.0), ("x", -4.0)]
    fast = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Metaspace()
    fast.add_special_tokens(["</s>"])
    return Tokenizer(fast, {"eos_token": "</s>"})


@given(text=TEXT)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


@given(ids=st.lists(st.integers(0, 299), max_size=30))
def test_streaming_equals_decoding(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Ids a model may sample in any order: half characters, control tokens."""
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_streaming_shows_no_half_characters(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in tokenizer.encode("é😀")]
    assert "".join(pieces) == "é😀" and "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize("text", ["hello", "he llo x", " hello", "x"])
def test_streaming_of_a_tokenizer_with_a_space_mark(text: str) -> None:
    other = sentencepiece_like()
    ids = other.encode(text)
    stream = TextStream(other)
    assert "".join(stream.push(i) for i in ids) + stream.flush() == other.decode(ids)


def test_control_tokens_only_where_asked_for(tokenizer: Tokenizer) -> None:
    """A user's text must not close the turn."""
    end = tokenizer.id_of("<|im_end|>")
    assert tokenizer.encode("<|im_end|>", special=True) == [end]
    plain = tokenizer.encode("a <|im_end|> b")
    assert end not in plain and tokenizer.decode(plain) == "a <|im_end|> b"
    assert end not in tokenizer.encode_batch(["<|im_end|>"])[0]


def test_ids_that_matter(tokenizer: Tokenizer) -> None:
    assert (tokenizer.eot_id, tokenizer.pad_id, tokenizer.bos_id) == (0, 0, None)
    assert tokenizer.stop_ids == (2, 0) and tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.vocab_size == 300


def test_files_come_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode("hello é") == tokenizer.encode("hello é")
    assert again.chat_template == tokenizer.chat_template and again.stop_ids == tokenizer.stop_ids
    again.save(tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_stop_ids_of_the_generation_config_count(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert Tokenizer.load(tmp_path).stop_ids == (2, 0, 7)


def test_a_template_in_its_own_file_counts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert Tokenizer.load(tmp_path).chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.json": "{"}, "cannot be read|can be read"),
        ({"tokenizer.json": '{"model": 3}'}, "can be read"),
    ],
)
def test_a_directory_that_is_no_tokenizer(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FoundlingError, match=message):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_that_is_not_the_models_is_refused(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    for fits in (size, round(1.05 * size)):
        tokenizer.require_fits(fits, "model")
    for other in (size // 2, 2 * size):
        with pytest.raises(FoundlingError, match=f"is not this model's: it has {size} tokens, the model {other}"):
            tokenizer.require_fits(other, "model")
