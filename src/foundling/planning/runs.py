"""Finished training runs as points of a scaling law: sizes, tokens and losses, from a table or from artifacts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundling.core.errors import FoundlingError
from foundling.planning.scaling_law import FLOPS_PER_PARAMETER

COLUMNS = {
    "parameters": ("parameters", "params", "n", "model size"),
    "tokens": ("tokens", "d", "training tokens"),
    "flops": ("flops", "flop", "c", "training_flops", "training flop"),
    "loss": ("loss", "validation_loss", "bits_per_byte", "validation_bits_per_byte"),
}


@dataclass(frozen=True)
class Runs:
    """Arrays of one entry a run; all above zero."""

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray

    def __post_init__(self) -> None:
        for name in ("parameters", "tokens", "loss"):
            values = getattr(self, name)
            bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
            if len(bad):
                what = f"run {bad[0] + 1} has {name} {values[bad[0]]:g}"
                raise FoundlingError(what, "finite numbers above zero were expected")

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def flops(self) -> np.ndarray:
        """C = 6ND."""
        return FLOPS_PER_PARAMETER * self.parameters * self.tokens

    def where(self, keep: np.ndarray) -> Runs:
        """The runs of a mask or of indices."""
        return Runs(self.parameters[keep], self.tokens[keep], self.loss[keep])


def read_runs(path: str | Path, loss_column: str | None = None) -> Runs:
    """Runs from a CSV or JSONL file with columns for parameters, tokens (or FLOPs = 6ND) and loss.

    Raises:
        FoundlingError: no such file, missing columns, or cells that are no numbers above zero, by line.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FoundlingError(f"there is no file {str(path)!r}", "a CSV or JSONL file of runs was expected")
    with file.open(encoding="utf-8", newline="") as lines:
        try:
            rows = [json.loads(line) for line in lines] if file.suffix == ".jsonl" else list(csv.DictReader(lines))
        except (ValueError, UnicodeDecodeError):
            raise FoundlingError(f"{file} is not CSV or JSONL in UTF-8") from None
    return runs_of(rows, str(path), loss_column)


def runs_of(rows: Sequence[Mapping[str, Any]], where: str, loss_column: str | None = None) -> Runs:
    """Runs from rows of plain data."""
    names = {key.lower().strip(): key for key in (rows[0] if rows else {})}
    found = {what: next((names[n] for n in options if n in names), None) for what, options in COLUMNS.items()}
    found["loss"] = names.get(loss_column.lower()) if loss_column else found["loss"]
    missing = [what for what in ("parameters", "loss") if not found[what]]
    if missing or not (found["tokens"] or found["flops"]):
        what = f"{where} lacks a column for {', '.join(missing) or 'tokens or flops'}"
        expected = f"columns parameters, tokens (or flops) and {loss_column or 'loss'} were expected"
        raise FoundlingError(what, f"{expected}; it has {', '.join(names) or 'nothing'}")
    parameters, loss = _column(rows, str(found["parameters"]), where), _column(rows, str(found["loss"]), where)
    if found["tokens"]:
        return Runs(parameters, _column(rows, found["tokens"], where), loss)
    return Runs(parameters, _column(rows, str(found["flops"]), where) / (FLOPS_PER_PARAMETER * parameters), loss)


def _column(rows: Sequence[Mapping[str, Any]], name: str, where: str) -> np.ndarray:
    values = []
    for number, row in enumerate(rows, 2):
        try:
            values.append(float(row[name]))
        except (TypeError, ValueError, KeyError):
            raise FoundlingError(f"{where}:{number}: {name} is {row.get(name)!r}", "a number was expected") from None
    return np.array(values)
