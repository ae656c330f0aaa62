"""What a task is: items, the requests each needs, how answers are graded, and what the grades are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from foundling.evaluation.requests import Answer, Request

Kind = Literal["share", "mean", "ratio"]
Value = float | tuple[float, float]  # a number, or numerator and denominator of a ratio


@dataclass(frozen=True)
class Metric:
    """How one metric's outcomes become a score.

    kind "share": each outcome is 0 or 1; Wilson interval, McNemar test. "mean": each is a number; bootstrap and
    permutation test. "ratio": each is (numerator, denominator), the score is sum / sum; bootstrap over items.
    """

    name: str
    kind: Kind = "share"
    higher_is_better: bool = True


@dataclass(frozen=True)
class Item:
    """One unit that is resampled by intervals and paired by tests. `slice` groups items for the breakdown."""

    id: str
    data: Any
    slice: str = ""


@dataclass(frozen=True)
class Outcome:
    """One item's result: a number (or a pair, for ratios) per metric, and what is worth keeping of the exchange.

    `flags` are counted in the result under their name, such as "truncated" or "no answer found".
    """

    id: str
    metrics: dict[str, Value]
    sample: dict[str, Any]
    slice: str = ""
    flags: tuple[str, ...] = ()
    tokens: tuple[int, int] = (0, 0)  # read and written, over all its requests


@dataclass(frozen=True)
class Reference:
    """A number to read a score against: chance, the majority answer, gzip, the truth itself."""

    name: str
    value: float


@dataclass(frozen=True)
class Task:
    """The parts of a task that are data. `settings` says how the model was asked; it is kept in the result."""

    name: str
    version: int
    metrics: tuple[Metric, ...]
    settings: dict[str, Any] = field(default_factory=dict)


class Evaluable(Protocol):
    """A task that can be run. Items, requests and grades are pure functions, so a broken-off run resumes exactly."""

    @property
    def task(self) -> Task:
        """Its name, version, metrics and settings."""
        ...

    def items(self) -> Sequence[Item]:
        """All items, in a fixed order, with unique ids."""
        ...

    def requests(self, item: Item) -> Sequence[Request]:
        """What to ask the model about one item."""
        ...

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """One outcome per item. Items come in blocks, so that answers that must be executed are executed together."""
        ...

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """Reference values per metric, on these items (at least one)."""
        ...


@runtime_checkable
class InTurns(Evaluable, Protocol):
    """A task that asks again, knowing what was answered: a conversation."""

    def next_requests(self, item: Item, answers: Sequence[Answer]) -> Sequence[Request]:
        """What to ask next, a pure function of the answers so far; nothing ends the item."""
        ...
