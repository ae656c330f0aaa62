"""Finds conversations in plain text, for tuning later: the heuristic of Dialogue-Tuned Gopher (Rae et al. 2021).

A conversation is a run of at least six paragraphs that all begin with a speaker and a separator ("Dr Smith - ", "Q. "),
where the even ones share a speaker, the odd ones share another, and the two differ.
"""

from __future__ import annotations

import re

MIN_PARAGRAPHS = 6
_TURN = re.compile(r"\A[ \t]*([^\n:]{1,40}?)(: | - |\. )(\S.*)\Z", re.DOTALL)


def find_dialogues(text: str) -> list[list[dict[str, str]]]:
    """Conversations in `text` as chat messages: who speaks first is the user, who answers is the assistant."""
    turns = [_split(paragraph) for paragraph in re.split(r"\n\s*\n", text.strip())]
    found, start = [], 0
    while start + MIN_PARAGRAPHS <= len(turns):
        end = _end_of_run(turns, start)
        if end - start >= MIN_PARAGRAPHS:
            found.append([_message(n, turns[start + n]) for n in range(end - start)])
            start = end
        else:
            start += 1
    return found


def _split(paragraph: str) -> tuple[str, str] | None:
    """(speaker with separator, what is said), or None for a paragraph that begins with no speaker."""
    match = _TURN.match(paragraph)
    return (match[1].strip() + match[2], match[3].strip()) if match else None


def _end_of_run(turns: list[tuple[str, str] | None], start: int) -> int:
    """One after the last paragraph of the run of alternating speakers that begins at `start`."""
    first, second = turns[start], turns[start + 1]
    if first is None or second is None or first[0] == second[0]:
        return start
    end = start
    while end < len(turns):
        turn = turns[end]
        if turn is None or turn[0] != (first, second)[(end - start) % 2][0]:
            break
        end += 1
    return end


def _message(number: int, turn: tuple[str, str] | None) -> dict[str, str]:
    assert turn is not None
    return {"role": "user" if number % 2 == 0 else "assistant", "content": turn[1]}
