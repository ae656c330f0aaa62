"""Collects, over the batches of a column, the first reason against each document."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foundling.corpus.characters import Batch, batches


class Reasons:
    """The first reason against each text of a batch, in the order in which they are given."""

    def __init__(self, count: int) -> None:
        self.names: list[str] = []
        self.codes = np.full(count, -1, np.int64)

    def add(self, reason: str, bad: NDArray[np.bool_]) -> None:
        """Blame the texts in `bad` that nothing else is held against yet."""
        self.codes[bad & (self.codes < 0)] = len(self.names)
        self.names.append(reason)

    def above(self, reason: str, values: NDArray, limit: float | None) -> None:  # type: ignore[type-arg]
        """Blame the texts whose value is over the limit; None switches the rule off."""
        if limit is not None:
            self.add(reason, values > limit)

    def below(self, reason: str, values: NDArray, limit: float | None) -> None:  # type: ignore[type-arg]
        """Blame the texts whose value is under the limit; None switches the rule off."""
        if limit is not None:
            self.add(reason, values < limit)

    def column(self) -> list[str | None]:
        """The reason against each text, or None."""
        return [self.names[code] if code >= 0 else None for code in self.codes]


def judge_batches(documents: pl.DataFrame, judge: Callable[[Batch, int], Reasons]) -> pl.Series:
    """Run `judge(batch, number of its first text)` over a frame; returns the column of reasons."""
    found: list[str | None] = []
    for first, batch in batches(documents["text"]):
        found.extend(judge(batch, first).column())
    return pl.Series(found, dtype=pl.String)


def share(part: NDArray, whole: NDArray) -> NDArray[np.float64]:  # type: ignore[type-arg]
    """part / whole; nan where there is no whole, so that no limit is passed or missed."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / whole, np.float64)
