"""What a search for the best compressed model is asked to do. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError, nearest

SIZES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_TARGET = re.compile(r"\s*([a-z]+)\s*(<=|>=|<|>)\s*([0-9.]+)\s*([a-zA-Z%]*)\s*")
_UNITS = {"size": ("<", tuple(SIZES)), "decode": (">", ("X",)), "quality": (">", ("%",))}
EXAMPLE = "Write for example 'size<60MB', 'decode>2x' or 'quality>=99%'"


@dataclass(frozen=True)
class Target:
    """A bound on one property: bytes on disk, decoding speed over the original's, or share of the quality kept."""

    property: str
    bound: float
    text: str

    def met(self, value: float) -> bool:
        """Whether a value of the property is good enough."""
        return value <= self.bound if self.property == "size" else value >= self.bound


def parse_target(text: str) -> Target:
    """Read "size<60MB", "decode>2x" or "quality>=99%".

    Raises:
        FoundlingError: it is none of these.
    """
    found = _TARGET.fullmatch(text)
    if found is None or found[1] not in _UNITS:
        hint = nearest(found[1], _UNITS) if found else ""
        raise FoundlingError(f"target {text!r} is not understood", hint, EXAMPLE)
    name, sign, number, unit = found.groups()
    direction, units = _UNITS[name]
    if sign[0] != direction:
        raise FoundlingError(f"target {text!r} asks for the wrong side", f"{name} is bounded by {direction}", EXAMPLE)
    if unit.upper() not in units:
        raise FoundlingError(f"target {text!r} has the unit {unit!r}", f"{name} takes {', '.join(units)}", EXAMPLE)
    try:
        value = float(number)
    except ValueError:
        raise FoundlingError(f"target {text!r} has no number", f"{number!r} was found", EXAMPLE) from None
    return Target(name, value * SIZES[unit.upper()] if name == "size" else value / 100 if unit == "%" else value, text)


class CompressSearchConfig(Config):
    """`compress --target`: ways of compressing are tried, and the best that meets every target is chosen."""

    target: tuple[str, ...] = option((), "what the result must meet: 'size<60MB', 'decode>2x', 'quality>=99%'")
    budget_s: float = option(600.0, "seconds after which no further way is tried", gt=0)
    tasks: tuple[str, ...] = option((), "evaluation tasks on which answers are compared with the original's")
    items: int = option(100, "items of each task", ge=1)
    price_per_hour: float = option(0.10, "of this machine, for the cost of a million tokens", ge=0)
    watts: float = option(65.0, "drawn by this machine under load, for the energy of a million tokens", gt=0)
    page: str = option("compression.html", "where the report is written")
