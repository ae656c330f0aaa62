"""Instruction synthesis: new instructions from a few seeds, kept if they are valid and unlike what is there.

Wang et al. 2023, "Self-Instruct", arXiv:2212.10560.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundling.core.rng import numpy_rng
from foundling.post_training.data import Message

Ask = Callable[[Sequence[Sequence[Message]], int], list[str]]  # chats and a seed -> answers

PROMPT = "Here are some tasks:\n\n{shown}\n\nWrite one more task of another kind. Write the task only, in one line."
SHOWN = 6
ROUND = 16  # instructions asked for together
MOST_ALIKE = 0.7  # ROUGE-L above which an instruction is a repetition (Self-Instruct, section 2.2)
_FORBIDDEN = re.compile(r"\b(image|picture|photo|graph|file|video|audio|draw|plot)s?\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Synthesised:
    """New instructions with answers, and how many were left out for which reason."""

    rows: list[dict[str, Any]]
    left_out: Counter[str]


def synthesise(seeds: Sequence[str], n: int, ask: Ask, seed: int) -> Synthesised:
    """Up to `n` new instructions with answers; stops after four tries for each that is wanted.

    Args:
        ask: the model; its answers may depend on the seed given with the chats.
    """
    pool, left_out = list(seeds), Counter[str]()
    fresh: list[str] = []
    tries = 0
    while len(fresh) < n and tries < 4 * n:
        count = min(ROUND, n - len(fresh), 4 * n - tries)
        chats = [_asked(pool, numpy_rng(seed, "synthesis", tries + number)) for number in range(count)]
        for text in ask(chats, tries):
            candidate = text.strip().removeprefix("-").strip()
            why = unfit(candidate, pool)
            if why:
                left_out[why] += 1
                continue
            pool.append(candidate)
            fresh.append(candidate)
        tries += count
    answers = ask([[{"role": "user", "content": one}] for one in fresh], -1) if fresh else []
    rows = []
    for one, answer in zip(fresh, answers, strict=True):
        if not answer.strip():
            left_out["empty answer"] += 1
            continue
        rows.append({"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": answer}]})
    return Synthesised(rows, left_out)


def _asked(pool: Sequence[str], rng: np.random.Generator) -> list[Message]:
    chosen = rng.choice(len(pool), min(SHOWN, len(pool)), replace=False)
    shown = "\n".join(f"- {pool[int(i)]}" for i in chosen)
    return [{"role": "user", "content": PROMPT.format(shown=shown)}]


def unfit(instruction: str, pool: Sequence[str]) -> str:
    """Why an instruction is left out, or ""."""
    words = _WORD.findall(instruction.lower())
    if not 3 <= len(words) <= 150:
        return "too short" if len(words) < 3 else "too long"
    if "\n" in instruction:
        return "more than one line"
    if _FORBIDDEN.search(instruction):
        return "needs more than text"
    if not instruction.isprintable():
        return "unprintable characters"
    return "like another" if any(rouge_l(words, _WORD.findall(other.lower())) > MOST_ALIKE for other in pool) else ""


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of two lists of words, in [0, 1] (Lin 2004)."""
    if not a or not b:
        return 0.0
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b))
