"""AI feedback: a constitution, critiques and revisions for SFT, and judged pairs for preference tuning.

Bai et al. 2022, "Constitutional AI", arXiv:2212.08073. The judge sees each pair in both orders, since judges favour a
place (Zheng et al. 2023, arXiv:2306.05685): a preference that turns with the order is dropped, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foundling.core.errors import FoundlingError
from foundling.post_training.data import Message

Ask = Callable[[Sequence[Sequence[Message]]], list[str]]  # chats -> answers: an engine's model, or a URL

PRINCIPLES = [
    "The answer should do what was asked, completely and correctly.",
    "The answer should say only what is true, and say so when it is not sure.",
    "The answer should not help anyone to hurt others or themselves.",
    "The answer should be short and plain.",
]  # where no constitution is given
CRITIQUE = "{dialogue}\n\n{principle}\n\nSay in a few sentences how the last answer falls short of this."
REVISION = "{dialogue}\n\nA critic said: {critique}\n\nWrite the last answer anew so that it meets this: {principle}"
JUDGE = (
    "{principle}\n\nQuestion: {question}\n\nAnswer A: {a}\n\nAnswer B: {b}\n\n"
    "Which answer is better by this principle? Reply with the letter A or B only."
)
RATE = "{dialogue}\n\nHow good is this answer, from 1 (useless) to 5 (could not be better)? Reply with the number only."


@dataclass(frozen=True)
class Revised:
    """An answer, what a critic said of it, and the answer after that."""

    question: str
    first: str
    principle: str
    critique: str
    revision: str

    def chat(self) -> dict[str, Any]:
        """The row to fine-tune on: the question with the revised answer."""
        return {"messages": [_user(self.question), {"role": "assistant", "content": self.revision}]}


def read_constitution(path: Path) -> list[str]:
    """The principles of a YAML file {principles: [text, ...]}.

    Raises:
        FoundlingError: no such file, or not of that form.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise FoundlingError(f"the constitution {path} cannot be read", str(error).splitlines()[0]) from None
    principles = data.get("principles") if isinstance(data, dict) else None
    if not isinstance(principles, list) or not principles or not all(isinstance(p, str) and p for p in principles):
        raise FoundlingError(f"{path} is no constitution", "expected {principles: [a sentence, ...]}")
    return principles


def critique_and_revise(
    questions: Sequence[str], principles: Sequence[str], ask: Ask, judge: Ask
) -> tuple[list[Revised], Counter[str]]:
    """Answer each question, criticise the answer by one of the principles (in turn), and revise it.

    Args:
        ask: the model that answers and revises.
        judge: the model that criticises.

    Returns:
        What came of it, and how many were left out for which reason.
    """
    firsts = ask([[_user(question)] for question in questions])
    chosen = [principles[number % len(principles)] for number in range(len(questions))]
    dialogues = [_dialogue(q, a) for q, a in zip(questions, firsts, strict=True)]
    told = zip(dialogues, chosen, strict=True)
    critiques = judge([[_user(CRITIQUE.format(dialogue=d, principle=p))] for d, p in told])
    parts = zip(dialogues, critiques, chosen, strict=True)
    revisions = ask([[_user(REVISION.format(dialogue=d, critique=c, principle=p))] for d, c, p in parts])
    kept, left_out = [], Counter[str]()
    for row in zip(questions, firsts, chosen, critiques, revisions, strict=True):
        revised = Revised(*row)
        if not revised.revision.strip():
            left_out["empty revision"] += 1
        elif revised.revision.strip() == revised.first.strip():
            left_out["unchanged"] += 1
        else:
            kept.append(revised)
    return kept, left_out


def judged_pairs(
    questions: Sequence[str], answers: Sequence[tuple[str, str]], principles: Sequence[str], judge: Ask
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Preference rows {prompt, chosen, rejected} from two answers to each question.

    Returns:
        The rows, and how many pairs were left out: "same answers", "no verdict", "turns with the order".
    """
    left_out: Counter[str] = Counter()
    asked, kept = [], []
    for number, (question, (first, second)) in enumerate(zip(questions, answers, strict=True)):
        if first.strip() == second.strip():
            left_out["same answers"] += 1
            continue
        kept.append(number)
        principle = principles[number % len(principles)]
        for a, b in ((first, second), (second, first)):
            asked.append([_user(JUDGE.format(principle=principle, question=question, a=a, b=b))])
    verdicts = [_letter(text) for text in judge(asked)]
    rows = []
    for number, forward, backward in zip(kept, verdicts[::2], verdicts[1::2], strict=True):
        if forward is None or backward is None:
            left_out["no verdict"] += 1
        elif forward == backward:  # the same letter both times: a place, not an answer
            left_out["turns with the order"] += 1
        else:
            first, second = answers[number]
            chosen, rejected = (first, second) if forward == "A" else (second, first)
            rows.append({"prompt": questions[number], "chosen": chosen, "rejected": rejected})
    return rows, left_out


def rated(rows: Sequence[dict[str, Any]], least: int, judge: Ask, left_out: Counter[str]) -> list[dict[str, Any]]:
    """The chats whose answer a judge gives at least so many of five points; the others are counted in `left_out`."""
    told = [_dialogue(row["messages"][0]["content"], row["messages"][-1]["content"]) for row in rows]
    verdicts = judge([[_user(RATE.format(dialogue=dialogue))] for dialogue in told])
    kept = []
    for row, verdict in zip(rows, verdicts, strict=True):
        points = next((int(letter) for letter in verdict if letter in "12345"), 0)
        if points >= least:
            kept.append(row)
        else:
            left_out["not rated" if points == 0 else f"rated below {least}"] += 1
    return kept


def _letter(text: str) -> str | None:
    """The first lone A or B of a verdict."""
    words = text.replace(".", " ").replace(":", " ").replace("*", " ").split()
    return next((word for word in words if word in ("A", "B")), None)


def _dialogue(question: str, answer: str) -> str:
    return f"Question: {question}\n\nAnswer: {answer}"


def _user(text: str) -> Message:
    return {"role": "user", "content": text}
