"""What counts as a continuation that is still Python."""

from __future__ import annotations

import pytest

from foundling.evaluation.tasks.syntax import begins_program, continues


@pytest.mark.parametrize(
    "text", ["x = 1\n", "def f(", "class A:\n", "s = '''open", "x = [1,\n", "@d\n", "try:\n    a()\n", ""]
)
def test_beginnings_of_programs(text: str) -> None:
    """Guards against counting open brackets, strings and blocks, which more text would close, as errors."""
    assert begins_program(text)


@pytest.mark.parametrize("text", ["x = )", "if x:\ny", "a\0", "  x = 1\n", "x = 'abc\n", "(" * 5000 + ")" * 5000])
def test_not_python(text: str) -> None:
    """Guards against crashes of the parser (null bytes, deep nesting) and real errors passing as unfinished."""
    assert not begins_program(text)


def test_continues() -> None:
    """Guards against an empty answer counting as valid, and a cut-off last line counting as an error."""
    assert not continues("x = 1\n", "", cut=False)
    assert not continues("x = 1\n", "  \n", cut=False)
    assert continues("x = 1\n", "y = 2\nz = 'unfin", cut=True)
    assert not continues("x = 1\n", "y = 2\nz = 'unfin\n", cut=False)
