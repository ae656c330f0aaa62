"""Every door for rows, with whatever JSON may hold: a row is used or refused by name, never a traceback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.core.errors import FoundlingError
from foundling.post_training.data import InvalidRow, as_example
from foundling.post_training.importers import as_our_row
from foundling.post_training.labelled import as_labelled, is_labelled
from foundling.post_training.pairs import as_pair
from foundling.post_training.rewards import as_prompted, is_prompted
from foundling.post_training.synthesize import seed_row

KEYS = [
    *("messages", "role", "content", "weight", "tool_calls", "tools", "prompt", "completion", "response", "label"),
    *("chosen", "rejected", "verifier", "data", "instruction", "input", "output", "system"),
    *("conversations", "from", "value"),
]
WORDS = ["user", "assistant", "human", "gpt", "function_call", "exact", "schema", "python", "", " ", "x"]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-1, 2), st.floats(), st.sampled_from(WORDS))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=8,
)
ROWS = st.one_of(VALUES, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))


def preference(row: Any, where: str) -> Any:
    """As `prefer --method kto` takes it."""
    if is_prompted(row):
        return as_prompted(row, where)
    return as_labelled(row, where) if is_labelled(row) else as_pair(row, where)


@pytest.mark.parametrize("door", [as_example, preference, as_prompted, seed_row])
@given(row=ROWS)
@settings(max_examples=150, deadline=None)
def test_any_json_is_used_or_refused_by_name(door: Callable[[Any, str], Any], row: Any) -> None:
    """Guards against tracebacks: a prompt that is a number, turns that are no list, tools that are no JSON."""
    try:
        door(as_our_row(row, "rows.jsonl:7"), "rows.jsonl:7")
    except FoundlingError as error:
        assert "rows.jsonl:7" in str(error)


@pytest.mark.parametrize(
    ("data", "verifier", "accepted"),
    [
        ("x", "exact", True),
        (["x", "y"], "exact", True),
        (5, "exact", False),
        (None, "contains", False),
        ({"type": "object"}, "schema", True),
        ({"type": "objct"}, "schema", False),
        ("true", "schema", False),
        ("assert True", "python", True),
        (7, "python", False),
        ("x", "expression", False),
    ],
)
def test_a_verifiers_data_is_checked_at_the_door(data: Any, verifier: str, accepted: bool) -> None:
    """Guards against a run that fails, or judges nothing, hours after it began."""
    row = {"prompt": "q", "verifier": verifier, "data": data}
    if accepted:
        assert as_prompted(row, "rows.jsonl:1").data == data
    else:
        with pytest.raises(FoundlingError, match=r"rows\.jsonl:1: the data of the verifier"):
            as_prompted(row, "rows.jsonl:1")


def test_a_row_is_refused_under_its_name_or_counted_under_its_reason() -> None:
    """Guards errors that come from a template and know no file: they get the row's name; skipped ones are counted."""
    with (
        pytest.raises(FoundlingError, match=r"^rows\.jsonl:3: the template refuses"),
        InvalidRow("rows.jsonl:3", "refuse", Counter()),
    ):
        raise FoundlingError("the template refuses it")
    skipped: Counter[str] = Counter()
    for line in (3, 4):
        with InvalidRow(f"rows.jsonl:{line}", "skip", skipped):
            raise FoundlingError(f"rows.jsonl:{line}: the same answers")
    assert skipped == {"the same answers": 2}
