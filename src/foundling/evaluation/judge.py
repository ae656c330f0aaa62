"""A model as judge: of two answers, in both orders so that position cannot win; or of one answer, by a grade."""

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
GRADE = (
    "An assistant answered a request. How good is its answer: correct, helpful, relevant, deep enough?\n\n"
    "Request:\n{prompt}\n\nAnswer:\n{answer}\n\n"
    'Reply with one number from 1 (useless) to 10 (could not be better), as in "7".'
)
_VERDICT = re.compile(r"\b([ABT])\b|\b((?i:tie))\b")  # a small "a" is a word
_NUMBER = re.compile(r"(?<![\d.])(10|[1-9])(?![\d.]*\d)")


@dataclass(frozen=True)
class Pair:
    """Two models' answers to one prompt."""

    prompt: str
    model_a: str
    answer_a: str
    model_b: str
    answer_b: str

    def judged(self, winner: str) -> Judgement:
        """The judgement "a", "b" or a tie."""
        lengths = len(self.answer_a), len(self.answer_b)
        if winner == "a":
            return Judgement(self.model_a, self.model_b, "a", *lengths)
        return Judgement(self.model_a, self.model_b, "b" if winner == "b" else "tie", *lengths)


@dataclass(frozen=True)
class Verdicts:
    """Judgements in the pairs' order. `inconsistent`: the verdict followed the position, so it counts as a tie.
    `unreadable`: the judge said neither A, B nor tie in at least one order; also a tie."""

    judgements: list[Judgement]
    inconsistent: int = 0
    unreadable: int = 0


def judge(pairs: Sequence[Pair], answerer: Answerer, max_tokens: int = 8) -> Verdicts:
    """Ask a judge model about every pair, in both orders."""
    requests = []
    for pair in pairs:
        for first, second in ((pair.answer_a, pair.answer_b), (pair.answer_b, pair.answer_a)):
            requests.append(_asked(QUESTION.format(prompt=pair.prompt, first=first, second=second), max_tokens))
    answers = answerer.answer(requests)
    judgements, inconsistent, unreadable = [], 0, 0
    for index, pair in enumerate(pairs):
        straight, swapped = (_letter(answer) for answer in answers[2 * index : 2 * index + 2])
        turned = {"A": "B", "B": "A"}.get(swapped, swapped)
        unreadable += not straight or not swapped
        inconsistent += bool(straight and swapped and straight != turned)
        judgements.append(pair.judged({"A": "a", "B": "b"}.get(straight, "tie") if straight == turned else "tie"))
    return Verdicts(judgements, inconsistent, unreadable)


def grade(exchanges: Sequence[tuple[str, str]], answerer: Answerer, max_tokens: int = 8) -> list[int | None]:
    """The judge's grade, 1 to 10, of each (prompt, answer) (MT-Bench, arXiv:2306.05685); None where it gave none."""
    asked = [_asked(GRADE.format(prompt=prompt, answer=answer), max_tokens) for prompt, answer in exchanges]
    found = [_NUMBER.search(_text(answer)) for answer in answerer.answer(asked)]
    return [int(match.group(1)) if match else None for match in found]


def _asked(text: str, max_tokens: int) -> Generate:
    messages: Messages = (("user", text),)
    return Generate(messages, max_tokens)


def _text(answer: object) -> str:
    assert isinstance(answer, GenerateAnswer)
    return answer.texts[0]


def _letter(answer: object) -> str:
    """ "A", "B", "T", or "" if the judge said none of them."""
    found = _VERDICT.search(_text(answer))
    return (found.group(1) or "T").upper() if found else ""
