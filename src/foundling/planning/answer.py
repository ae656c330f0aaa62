"""What a planning question gets: figures with their units, the formula, what was assumed and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.core.units import human_bytes, human_count, human_flops, human_time

DAY_S, HOUR_S = 86400.0, 3600.0

UNITS: dict[str, Callable[[float], str]] = {
    "bytes": human_bytes,
    "count": human_count,
    "tokens": human_count,
    "FLOP": human_flops,
    "FLOP/s": lambda v: f"{human_flops(v)}/s",
    "FLOP/day": lambda v: f"{v:.3g} FLOP/day",
    "s": human_time,
    "days": lambda v: f"{v:,.1f} days" if v < 100 else f"{v:,.0f} days",
    "money": lambda v: f"{v:,.2f}" if abs(v) < 1000 else f"{v:,.0f}",
    "share": lambda v: f"{v:.1%}",
    "kWh": lambda v: f"{v:,.3g} kWh" if v < 1000 else f"{v:,.0f} kWh",
    "W": lambda v: f"{v:,.0f} W",
    "tokens/s": lambda v: f"{v:,.0f} tokens/s",
    "bytes/s": lambda v: f"{human_bytes(v)}/s",
    "times": lambda v: f"{v:.3g}×",
    "year": lambda v: f"{v:.1f}",
    "": lambda v: f"{v:.4g}",
}


@dataclass(frozen=True)
class Figure:
    """One number of an answer; infinity: never. `low` and `high` bound its 95% interval where there is one."""

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """The value for people, with its interval."""
        if math.isinf(self.value):
            return "never"
        show = UNITS[self.unit]
        if self.low is None or self.high is None:
            return show(self.value)
        return f"{show(self.value)} [{show(self.low)}, {show(self.high)}]"


@dataclass(frozen=True)
class Answer:
    """The answer to a planning question, for people (`foundling plan ...`) and machines (`--json`).

    Attributes:
        formulas: how the figures follow from the inputs.
        assumptions: inputs that were not given, and what the formula leaves out.
        table: (columns, rows), where one figure a line is not enough.
        plots: files that were written.
    """

    title: str
    figures: Sequence[Figure]
    formulas: Sequence[str]
    assumptions: Sequence[str] = ()
    sources: Sequence[str] = ()
    warnings: Sequence[str] = ()
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    plots: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: every figure by name with its unit."""
        figures: dict[str, dict[str, Any]] = {}
        for figure in self.figures:
            interval = {} if figure.low is None else {"low": figure.low, "high": figure.high}
            value = figure.value if math.isfinite(figure.value) else None  # JSON has no infinity
            figures[figure.name] = {"value": value, "unit": figure.unit} | interval
        kept = {"formulas": self.formulas, "assumptions": self.assumptions, "sources": self.sources}
        kept |= {"warnings": self.warnings, "plots": self.plots}
        table = {"columns": list(self.table[0]), "rows": [list(row) for row in self.table[1]]} if self.table else None
        return {"title": self.title, "figures": figures, "table": table} | {k: list(v) for k, v in kept.items()}

    def __getitem__(self, name: str) -> float:
        """The value of a figure."""
        return next(figure.value for figure in self.figures if figure.name == name)


def positive(name: str, value: float) -> float:
    """`value`, refused unless it is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise FoundlingError(f"{name} is {value:g}", "a number above zero was expected")
    return float(value)


def not_negative(name: str, value: float) -> float:
    """`value`, refused unless it is a finite number, zero or more."""
    if not (math.isfinite(value) and value >= 0):
        raise FoundlingError(f"{name} is {value:g}", "zero or a number above was expected")
    return float(value)


def whole(name: str, value: float) -> int:
    """`value`, refused unless it is 1, 2, 3, ..."""
    if value < 1 or value != int(value):
        raise FoundlingError(f"{name} is {value:g}", "a whole number, 1 or more, was expected")
    return int(value)


def share(name: str, value: float) -> float:
    """`value`, refused unless it lies above 0 and at most at 1."""
    if not 0 < value <= 1:
        raise FoundlingError(f"{name} is {value:g}", "a share above 0 and up to 1 was expected", "Write 40% as 0.4")
    return float(value)
