"""AI feedback and instruction synthesis with models that are functions: what is kept, and what is counted out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from foundling.core.errors import FoundlingError
from foundling.post_training.feedback import critique_and_revise, judged_pairs, read_constitution
from foundling.post_training.importers import as_our_row
from foundling.post_training.synthesis import rouge_l, synthesise, unfit


def test_a_judge_that_likes_a_place_decides_nothing() -> None:
    """Guards position debiasing: only a verdict that follows the answer through both orders counts."""

    def judge(chats: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
        verdicts = []
        for chat in chats:
            text = chat[0]["content"]
            if "place" in text:
                verdicts.append("A")
            elif "mumble" in text:
                verdicts.append("hard to say")
            else:
                verdicts.append("**A**" if "Answer A: good" in text else "B.")
        return verdicts

    questions = ["plain", "place", "mumble", "same"]
    answers = [("bad", "good"), ("bad", "good"), ("bad", "good"), ("x", "x ")]
    rows, left_out = judged_pairs(questions, answers, ["Be good."], judge)
    assert rows == [{"prompt": "plain", "chosen": "good", "rejected": "bad"}]
    assert left_out == {"turns with the order": 1, "no verdict": 1, "same answers": 1}


def test_revisions_that_change_nothing_are_left_out() -> None:
    """Guards the SFT rows: question with the revised answer, principles taken in turn."""

    def ask(chats: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
        return ["same" if "q1" in c[0]["content"] else f"{len(c[0]['content']) > 9}" for c in chats]

    kept, left_out = critique_and_revise(["q0", "q1"], ["One.", "Two."], ask, ask)
    assert [(r.principle, r.first, r.revision) for r in kept] == [("One.", "False", "True")]
    assert kept[0].chat()["messages"][1]["content"] == "True"
    assert left_out == {"unchanged": 1}


def test_constitutions_are_checked(tmp_path: Path) -> None:
    """Guards the file's form."""
    (tmp_path / "good.yaml").write_text("principles:\n  - Be kind.\n")
    assert read_constitution(tmp_path / "good.yaml") == ["Be kind."]
    (tmp_path / "bad.yaml").write_text("rules: []")
    with pytest.raises(FoundlingError, match="no constitution"):
        read_constitution(tmp_path / "bad.yaml")


def test_synthesis_keeps_what_is_new_and_valid() -> None:
    """Guards the filters, each with its count, and that a run is a pure function of its seed."""
    said = ["Sort the list of names", "Sort the list of the names", "Draw a picture of the sea", "no",
            "Write a poem about two rivers", "Explain how a lock works"]  # fmt: skip

    def ask(chats: Sequence[Sequence[dict[str, Any]]], seed: int) -> list[str]:
        answers = [f"answer {len(chat[0]['content'])}" for chat in chats]
        return answers if seed < 0 else [said[(seed + number) % len(said)] for number in range(len(chats))]

    made = synthesise(["Count the words of a text"], 3, ask, seed=1)
    assert [row["messages"][0]["content"] for row in made.rows] == [said[0], said[4], said[5]]
    assert made.left_out == {"like another": 1, "needs more than text": 1, "too short": 1}
    assert made == synthesise(["Count the words of a text"], 3, ask, seed=1)


def test_rouge_l() -> None:
    """Guards the measure of likeness: order matters, gaps do not."""
    assert rouge_l(["a", "b", "c"], ["a", "b", "c"]) == 1.0
    assert rouge_l(["a", "b", "c", "d"], ["a", "x", "c"]) == pytest.approx(2 * 2 / 7)
    assert rouge_l([], ["a"]) == 0.0
    assert unfit("write\nthis now", []) == "more than one line"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "a", "input": "b", "output": "c"}, {"messages": [("user", "a\n\nb"), ("assistant", "c")]}),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}]},
         {"messages": [("user", "a"), ("assistant", "c")]}),
        ({"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "c"},
          "rejected": {"from": "gpt", "value": "d"}},
         {"prompt": [("user", "a")], "chosen": [("assistant", "c")], "rejected": [("assistant", "d")]}),
        ({"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: d"},
         {"chosen": [("user", "a"), ("assistant", "c")], "rejected": [("user", "a"), ("assistant", "d")]}),
        ({"prompt": "a", "response": "c"}, {"prompt": "a", "completion": "c"}),
    ],
)  # fmt: skip
def test_other_tools_rows_become_ours(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """Guards the importers: Alpaca, ShareGPT with and without preferences, HH-RLHF transcripts, prompt/response."""
    made = as_our_row(row, "x:1")
    plain = {k: [(m["role"], m["content"]) for m in v] if isinstance(v, list) else v for k, v in made.items()}
    assert plain == expected


def test_unknown_speakers_are_named() -> None:
    """Guards against a turn that is given to the wrong side in silence."""
    with pytest.raises(FoundlingError, match="x:1: unknown speaker 'ghost'"):
        as_our_row({"conversations": [{"from": "ghost", "value": "boo"}]}, "x:1")
