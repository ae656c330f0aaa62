"""A model as judge of two answers: asked twice with the order swapped, so that position cannot win."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from foundling.evaluation.rankings import Judgement
from foundling.evaluation.requests import Answerer, Generate, GenerateAnswer, Messages

QUESTION = (
    "Two assistants answered the same request. Which answer is better: more correct, more helpful, to the point?\n\n"
    "Request:\n{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n"
    'Reply with one letter: "A", "B", or "T" for a tie.'
)
_VERDICT = re.compile(r"\b([ABT])\b|\b(tie)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """Two models' answers to one prompt."""

    prompt: str
    model_a: str
    answer_a: str
    model_b: str
    answer_b: str


@dataclass(frozen=True)
class Verdicts:
    """Judgements in the pairs' order. `inconsistent`: the verdict followed the position, so it counts as a tie.
    `unreadable`: the judge said neither A, B nor tie in at least one order; also a tie."""

    judgements: list[Judgement]
    inconsistent: int
    unreadable: int


def judge(pairs: Sequence[Pair], answerer: Answerer, max_tokens: int = 8) -> Verdicts:
    """Ask a judge model about every pair, in both orders."""
    requests = []
    for pair in pairs:
        for first, second in ((pair.answer_a, pair.answer_b), (pair.answer_b, pair.answer_a)):
            text = QUESTION.format(prompt=pair.prompt, first=first, second=second)
            messages: Messages = (("user", text),)
            requests.append(Generate(messages, max_tokens))
    answers = answerer.answer(requests)
    judgements, inconsistent, unreadable = [], 0, 0
    for index, pair in enumerate(pairs):
        straight, swapped = (_letter(answer) for answer in answers[2 * index : 2 * index + 2])
        turned = {"A": "B", "B": "A"}.get(swapped, swapped)
        unreadable += not straight or not swapped
        inconsistent += bool(straight and swapped and straight != turned)
        winner = {"A": "a", "B": "b"}.get(straight, "tie") if straight == turned else "tie"
        judgements.append(_judgement(pair, winner))
    return Verdicts(judgements, inconsistent, unreadable)


def _judgement(pair: Pair, winner: str) -> Judgement:
    lengths = len(pair.answer_a), len(pair.answer_b)
    if winner == "a":
        return Judgement(pair.model_a, pair.model_b, "a", *lengths)
    return Judgement(pair.model_a, pair.model_b, "b" if winner == "b" else "tie", *lengths)


def _letter(answer: object) -> str:
    """ "A", "B", "T", or "" if the judge said none of them."""
    assert isinstance(answer, GenerateAnswer)
    found = _VERDICT.search(answer.texts[0])
    return (found.group(1) or "T").upper() if found else ""
