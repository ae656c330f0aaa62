"""Conversations in plain text, and what only looks like one."""

from __future__ import annotations

from foundling.corpus.dialogue import find_dialogues


def test_a_conversation_between_two_paragraphs_of_prose() -> None:
    turns = "\n\n".join(f"Gopher: answer {n}" if n % 2 else f"Dr Smith: question {n}?" for n in range(7))
    found = find_dialogues(f"A preface without a speaker\n\n{turns}\n\nThe end of it")
    assert len(found) == 1 and len(found[0]) == 7
    assert found[0][0] == {"role": "user", "content": "question 0?"}
    assert found[0][1] == {"role": "assistant", "content": "answer 1"}


def test_other_separators_and_two_conversations() -> None:
    one = "\n\n".join(["Q. What?", "A. That."] * 3)
    two = "\n\n".join(["Ann - Hi", "Bob - Ho"] * 4)
    assert [len(found) for found in find_dialogues(f"{one}\n\n{two}")] == [6, 8]


def test_no_conversation() -> None:
    assert find_dialogues("Note: one\n\n" * 8) == []  # one speaker only
    assert find_dialogues("\n\n".join(["Q. What?", "A. That."] * 2)) == []  # too short
    assert find_dialogues("\n\n".join(f"Speaker{n}: words" for n in range(8))) == []  # every time another one
    assert find_dialogues("") == []
