"""Preference rows at the door: a prompt with a better and a worse answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.post_training.config import Invalid, Policy
from foundling.post_training.data import InvalidRow, Message, as_messages, checked_messages
from foundling.post_training.packing import Encoded
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers, each a list of messages; `source` is "file:line" or the id of a task's item."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    source: str


@dataclass(frozen=True)
class EncodedPair:
    """Both conversations as tokens, with the answers' tokens masked in."""

    chosen: Encoded
    rejected: Encoded

    @property
    def tokens(self) -> int:
        """Inputs that both take together."""
        return len(self.chosen.ids) + len(self.rejected.ids) - 2


def as_pair(row: Any, where: str) -> Pair:
    """A row {prompt, chosen, rejected}: lists of messages, or texts. Without `prompt`, what both begin with is it.

    Raises:
        FoundlingError: naming `where` and what is wrong.
    """
    if not isinstance(row, dict) or "chosen" not in row or "rejected" not in row:
        fields = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise FoundlingError(f"{where} has {fields}", "a row has `prompt`, `chosen` and `rejected`")
    chosen, rejected = as_messages(row["chosen"], "assistant"), as_messages(row["rejected"], "assistant")
    prompt = as_messages(row["prompt"], "user") if row.get("prompt") else _shared(chosen, rejected)
    if not row.get("prompt"):
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not prompt or not chosen or not rejected:
        raise FoundlingError(f"{where}: the prompt or an answer is missing")
    if chosen == rejected:
        raise FoundlingError(f"{where}: chosen and rejected are the same")
    for answer in (chosen, rejected):
        checked_messages([*prompt, *answer], where)
    return Pair(tuple(prompt), tuple(chosen), tuple(rejected), where)


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, context: int, too_long: Policy, invalid: Invalid, counts: Counter[str]
) -> list[EncodedPair]:
    """Pairs as tokens. The loss is on what follows the prompt; `counts` says how many were left out or cut.

    Raises:
        FoundlingError: a pair has more than `context` tokens and `too_long` is "refuse", or the template cannot write
            it and `invalid` is "refuse".
    """
    encoded = []
    for pair in pairs:
        made = None
        with InvalidRow(pair.source, invalid, counts):
            both = (encode_answer(tokenizer, pair.prompt, a, pair.source) for a in (pair.chosen, pair.rejected))
            made = EncodedPair(*both)
        if made is None:
            continue
        if made.tokens > context:
            if too_long == "refuse":
                what = f"{pair.source}: both answers with their prompts have {made.tokens} tokens, more than {context}"
                raise FoundlingError(what, fix="Set a larger context, or too_long to 'skip' or 'truncate'")
            counts[f"longer than the context: {too_long}"] += 1
            made = EncodedPair(_cut(made.chosen, context // 2), _cut(made.rejected, context // 2))
            if too_long == "skip" or not (any(made.chosen.mask[1:]) and any(made.rejected.mask[1:])):
                continue
        encoded.append(made)
    return encoded


def encode_answer(
    tokenizer: Tokenizer, asked: tuple[Message, ...], answer: tuple[Message, ...], source: str
) -> Encoded:
    """A conversation as tokens, the answer's masked in and nothing else.

    Raises:
        FoundlingError: the template writes the prompt in another way once an answer follows.
    """
    whole = render(tokenizer, [*asked, *answer])
    prompt = render(tokenizer, asked, add_generation_prompt=True)
    start = len(prompt.ids)
    if whole.ids[:start] != prompt.ids:
        raise FoundlingError(
            f"{source}: the chat template writes the prompt in another way once an answer follows",
            "the template is not prefix stable",
        )
    mask = [answered and index >= start for index, answered in enumerate(whole.loss_mask)]
    return Encoded(whole.ids, mask, source)


def _cut(encoded: Encoded, tokens: int) -> Encoded:
    return Encoded(encoded.ids[: tokens + 1], encoded.mask[: tokens + 1], encoded.source)


def _shared(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """The messages that both conversations begin with."""
    shared = []
    for a, b in zip(chosen, rejected, strict=False):
        if a != b:
            break
        shared.append(a)
    return shared
