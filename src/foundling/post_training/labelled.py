"""Answers judged one by one, for KTO: a prompt, an answer, and whether it is good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.post_training.config import PreferConfig
from foundling.post_training.data import InvalidRow, Message, as_messages, checked_messages
from foundling.post_training.packing import Encoded
from foundling.post_training.pairs import encode_answer
from foundling.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Labelled:
    """A prompt, an answer, and whether it is a good one."""

    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    desirable: bool
    source: str


def is_labelled(row: Any) -> bool:
    """Whether a row is one of these rather than a pair."""
    return isinstance(row, dict) and "label" in row and "chosen" not in row


def as_labelled(row: dict[str, Any], where: str) -> Labelled:
    """A row {prompt, completion, label}, or {messages, label} whose last message is the answer.

    Raises:
        FoundlingError: naming `where` and what is wrong.
    """
    if not isinstance(row["label"], bool):
        raise FoundlingError(f"{where}: label is {row['label']!r}", "a label is true (good) or false")
    if "messages" in row:
        messages = as_messages(row["messages"], "user")
        prompt, answer = messages[:-1], messages[-1:]
    else:
        prompt, answer = as_messages(row.get("prompt"), "user"), as_messages(row.get("completion"), "assistant")
    if not prompt or not answer:
        raise FoundlingError(f"{where}: the prompt or the answer is missing")
    checked_messages([*prompt, *answer], where)
    return Labelled(tuple(prompt), tuple(answer), row["label"], where)


def encode_labelled(
    rows: Sequence[Labelled], tokenizer: Tokenizer, config: PreferConfig, counts: Counter[str]
) -> tuple[list[Encoded], list[bool]]:
    """The conversations as tokens with their labels; `counts` says how many were left out or cut.

    Raises:
        FoundlingError: one has more than `config.context` tokens, or the template cannot write it, and the config
            says to refuse it.
    """
    encoded, labels = [], []
    context, too_long = config.context, config.too_long
    for row in rows:
        one = None
        with InvalidRow(row.source, config.invalid, counts):
            one = encode_answer(tokenizer, row.prompt, row.answer, row.source)
        if one is None:
            continue
        if len(one.ids) > context + 1:
            if too_long == "refuse":
                what = f"{row.source} has {len(one.ids)} tokens, more than {context}"
                raise FoundlingError(what, fix="Set a larger context, or too_long to 'skip' or 'truncate'")
            counts[f"longer than the context: {too_long}"] += 1
            one = Encoded(one.ids[: context + 1], one.mask[: context + 1], one.source)
            if too_long == "skip" or not any(one.mask[1:]):
                continue
        encoded.append(one)
        labels.append(row.desirable)
    return encoded, labels
