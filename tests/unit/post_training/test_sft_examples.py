"""Which tokens of a chat are learned: turns, weights of 0, and what happens to chats longer than the context."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from foundling.core.errors import FoundlingError
from foundling.post_training.config import SFTConfig
from foundling.post_training.data import Example, as_example, read_rows
from foundling.post_training.packing import Encoded
from foundling.post_training.sft import encode
from foundling.tokenization.tokenizer import Tokenizer

from .tiny_chat import make_tokenizer

CHAT = [
    {"role": "user", "content": "one"}, {"role": "assistant", "content": "alpha"},
    {"role": "user", "content": "two"}, {"role": "assistant", "content": "beta"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def _learned(tokenizer: Tokenizer, encoded: Encoded) -> str:
    return tokenizer.decode([i for i, wanted in zip(encoded.ids, encoded.mask, strict=True) if wanted])


def _encode(tokenizer: Tokenizer, messages: Any, **options: Any) -> tuple[list[Encoded], dict[str, int]]:
    return encode([Example(tuple(messages), "chats.jsonl:1")], tokenizer, SFTConfig(**({"context": 96} | options)))


def test_every_answer_is_learned_with_its_end(tokenizer: Tokenizer) -> None:
    """Guards the end-of-turn token: a model that never learns it never stops."""
    [one], _ = _encode(tokenizer, CHAT)
    assert _learned(tokenizer, one) == "alphabeta"
    assert sum(i in tokenizer.stop_ids for i, wanted in zip(one.ids, one.mask, strict=True) if wanted) == 2


def test_turns_that_are_not_to_be_learned_stay_in_sight(tokenizer: Tokenizer) -> None:
    """Guards against self-delusion: what the model said by itself (weight 0) is context, never a target."""
    weighted = [CHAT[0], CHAT[1] | {"weight": 0}, *CHAT[2:]]
    [one], _ = _encode(tokenizer, weighted)
    [last], _ = _encode(tokenizer, CHAT, turns="last")
    assert _learned(tokenizer, one) == _learned(tokenizer, last) == "beta"
    assert "alpha" in tokenizer.decode(one.ids)
    with pytest.raises(FoundlingError, match="nothing is left"):
        _encode(tokenizer, weighted[:2])


def test_a_long_chat_is_split_without_loss(tokenizer: Tokenizer) -> None:
    """Guards the cut: every token is predicted once, from a part that begins with the token before it."""
    [whole], _ = _encode(tokenizer, CHAT)
    parts, counts = _encode(tokenizer, CHAT, context=8, too_long="split")
    assert counts["longer than the context: split"] == 1
    predicted = [i for part in parts for i, wanted in zip(part.ids[1:], part.mask[1:], strict=True) if wanted]
    assert predicted == [i for i, wanted in zip(whole.ids[1:], whole.mask[1:], strict=True) if wanted]
    assert all(len(part.ids) <= 9 for part in parts)
    with pytest.raises(FoundlingError, match=r"chats\.jsonl:1 has \d+ tokens"):
        _encode(tokenizer, CHAT, context=8)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [*CHAT[:1], CHAT[1] | {"weight": 0.5}]}, "weight 0.5"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "narrator"),
        ({"messages": CHAT[:1]}, "no assistant message"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": " "}]}, "empty answer"),
        ({"question": "x"}, "has the fields question"),
    ],
)
def test_bad_chats_are_named_or_counted(tmp_path: Path, row: Any, said: str) -> None:
    """Guards file and line in the refusal, and the count under a reason where rows may be skipped."""
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(FoundlingError, match=r"chats\.jsonl:2") as caught:
        read_rows(path, as_example, "refuse", Counter())
    assert said in str(caught.value)
    skipped: Counter[str] = Counter()
    assert len(read_rows(path, as_example, "skip", skipped)) == 1 and sum(skipped.values()) == 1
