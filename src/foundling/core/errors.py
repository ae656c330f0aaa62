"""The one error a user sees: what is wrong, why, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FoundlingError(Exception):
    """A mistake the user can act on. The command line prints it as one paragraph and exits with code 2.

    Args:
        what: what is wrong, naming the field or file and the value.
        why: what was expected.
        fix: the command or the value that would work.
    """

    exit_code = 2

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what.strip(), _capitalised(why.strip()), _capitalised(fix.strip())
        super().__init__(" ".join(_sentence(part) for part in (self.what, self.why, self.fix) if part))


class Interrupted(FoundlingError):
    """The user or the system asked us to stop; what was done is saved. Exits with 128 + the signal's number."""

    def __init__(self, what: str, signal_number: int, fix: str = "Run the same command again to go on.") -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + signal_number


def nearest(value: str, options: Iterable[str]) -> str:
    """The option most like `value`, as a hint to append to a message: "did you mean 'x'?", or "" if none is near."""
    matches = difflib.get_close_matches(str(value), [str(option) for option in options], n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else ""


def _sentence(text: str) -> str:
    return text if text[-1] in ".!?:" else text + "."


def _capitalised(text: str) -> str:
    """A sentence's first letter, unless its first word is a name (a path, a field, our own command)."""
    first = text.split(" ", 1)[0].rstrip(":")
    return text[:1].upper() + text[1:] if first.isalpha() and first != "foundling" else text
