"""Packing examples into rows: several to a row, each seeing only itself, none cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foundling.core.rng import numpy_rng
from foundling.training.batch import Batch


@dataclass(frozen=True)
class Encoded:
    """An example as tokens: ids, which of them the assistant must produce, and its source."""

    ids: Sequence[int]
    mask: Sequence[bool]
    source: str


class PackedRows:
    """Rows of `context` tokens, filled with whole examples in a new random order every epoch.

    Row n is computed from (seed, n): epochs follow one another, and a resumed run needs no state.
    """

    def __init__(self, examples: Sequence[Encoded], context: int, pad_id: int, seed: int) -> None:
        assert examples and all(2 <= len(e.ids) <= context + 1 for e in examples)
        self.examples, self.context, self.pad_id, self.seed = examples, context, pad_id, seed
        self._plans: dict[int, list[list[int]]] = {}

    def rows_in(self, epochs: float) -> int:
        """How many rows that many passes over the examples take."""
        whole, part = int(epochs), epochs - int(epochs)
        return sum(len(self._plan(e)) for e in range(whole)) + round(part * len(self._plan(whole)))

    def batch(self, first: int, rows: int) -> Batch:
        """Rows `first` to `first + rows` of the endless sequence of epochs."""
        chosen = self._rows(first, rows)
        shape = (rows, self.context)
        tokens, targets = np.full(shape, self.pad_id), np.full(shape, self.pad_id)
        mask, segments = np.zeros(shape, np.float32), np.full(shape, -1)
        for r, members in enumerate(chosen):
            at = 0
            for number, index in enumerate(members):
                example = self.examples[index]
                span = slice(at, at := at + len(example.ids) - 1)
                tokens[r, span], targets[r, span] = example.ids[:-1], example.ids[1:]
                mask[r, span], segments[r, span] = example.mask[1:], number
        sources = [", ".join(self.examples[i].source for i in members) for members in chosen]
        arrays = [torch.from_numpy(a) for a in (tokens, targets, mask, segments)]
        return Batch(arrays[0], arrays[1], arrays[2], arrays[3], sources=sources)

    def _rows(self, first: int, rows: int) -> list[list[int]]:
        found: list[list[int]] = []
        epoch = 0
        while len(found) < rows:
            plan = self._plan(epoch)
            if first < len(plan):
                found += plan[first : first + rows - len(found)]
            first = max(0, first - len(plan))
            epoch += 1
        return found

    def _plan(self, epoch: int) -> list[list[int]]:
        """Which examples share a row: best fit over the last rows still open, in the epoch's order."""
        if epoch not in self._plans:
            order = numpy_rng(self.seed, "packing", epoch).permutation(len(self.examples))
            rows: list[list[int]] = []
            room: list[int] = []
            for index in order:
                need = len(self.examples[index].ids) - 1
                recent = range(max(0, len(rows) - 64), len(rows))
                best = min((r for r in recent if room[r] >= need), key=lambda r: room[r], default=None)
                if best is None:
                    best = len(rows)
                    rows.append([])
                    room.append(self.context)
                rows[best].append(int(index))
                room[best] -= need
            self._plans[epoch] = rows
        return self._plans[epoch]
