"""The graded task: what is held out is held out, references are right, and answers are judged by what they compute."""

from __future__ import annotations

from itertools import islice

import pytest

from foundling.evaluation.tasks.expressions import Item, generate, grade, held_out_prompts
from foundling.evaluation.tasks.expressions.grammar import SPLITS, draws


def test_items_are_a_pure_function_of_split_and_seed() -> None:
    """Guards artifact keys: the same arguments give the same items, and more of them begin with the same."""
    first = generate("train", 30, seed=4)
    assert first == generate("train", 60, seed=4)[:30] != generate("train", 30, seed=5)
    assert len({item.instruction for item in first}) == 30


def test_what_is_held_out_never_occurs_in_training() -> None:
    """Guards the splits: no composition, phrasing or instruction crosses over; single operations all do occur."""
    train, compositions, phrasings = (list(islice(draws(split, 0), 4000)) for split in SPLITS)
    assert not {d.composition for d in train} & {d.composition for d in compositions}
    assert not {d.phrasing for d in train} & {d.phrasing for d in phrasings}
    assert not {d.composition for d in phrasings} & {d.composition for d in compositions}
    held = [{d.instruction for d in part} for part in (compositions, phrasings)]
    assert not {d.instruction for d in train} & (held[0] | held[1])
    seen = {name for d in train for name in d.composition.partition(": ")[2].split(" + ")}
    assert {name for d in compositions for name in d.composition.partition(": ")[2].split(" + ")} <= seen
    words = {word for d in train for word in d.instruction.split()}
    assert {word for d in phrasings for word in d.instruction.split()} <= words


@pytest.mark.parametrize("split", SPLITS)
def test_references_are_right_and_not_all_the_same(split: str) -> None:
    """Guards the grammar's code: every reference passes on its own hidden inputs, and few pass on another's."""
    items = generate(split, 120)
    assert all(outcome.passed for outcome in grade(items, [item.reference for item in items]))
    others = [item.reference for item in items[1:]] + [items[0].reference]
    assert sum(outcome.passed for outcome in grade(items, others)) < 5


def test_answers_are_judged_by_value_and_type() -> None:
    """Guards equality: another way to say it passes; a tuple for a list, or True for 1, does not."""
    inputs = tuple({"xs": xs} for xs in ([1, 2, 3], [4], [2, 2, 1]))
    item = Item("i", "the even numbers in xs", "[x for x in xs if x % 2 == 0]", inputs, "train")
    answers = ["list(filter(lambda x: x % 2 == 0, xs))", "tuple(x for x in xs if x % 2 == 0)", "xs[", "[]", "xs.pop()"]
    verdicts = [outcome.verdict for outcome in grade([item] * 5, answers)]
    assert verdicts == ["passed", "wrong", "syntax", "wrong", "not allowed"]
    first = Item("j", "how many ones", "sum(x == 1 for x in xs)", ({"xs": [1]},), "train")
    assert [o.passed for o in grade([first] * 2, ["xs[0] == 1", "1"])] == [False, True]


def test_corpora_are_told_what_to_leave_out() -> None:
    """Guards decontamination: the prompts are those that evaluation draws first."""
    prompts = set(held_out_prompts())
    for split in ("compositions", "phrasings"):
        assert {item.instruction for item in generate(split, 150)} <= prompts
