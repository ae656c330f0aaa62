"""What a forward pass knows beside the tokens: positions, which sequence each belongs to, and where the cache is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass
class CacheView:
    """Cached decoding: where each row's past lies and where its new tokens go. One row per sequence.

    A physical slot is `block * block_size + offset`. Block 0 is reserved: padding is written there.
    """

    write_slots: Tensor  # (rows, time) int64 physical slot of each new token; padding points into block 0
    block_table: Tensor  # (rows, max_blocks) int64 physical blocks of each row in order, padded with 0
    lengths: Tensor  # (rows,) int64 tokens cached before this call
    new_lengths: Tensor  # (rows,) int64 valid new tokens in this call, at most time
    state_slots: Tensor  # (rows,) int64 slot of each row's recurrent state


@dataclass
class Context:
    """Positions, segments and cache of one forward pass. Make a new one for each pass: it remembers masks and tables.

    Tokens attend only within an equal segment; -1 marks padding. `segments=None`: every row is one whole sequence.
    """

    positions: Tensor  # (rows, time) int64 position of each token in its own sequence
    segments: Tensor | None = None  # (rows, time) int64, or None
    cache: CacheView | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def full(cls, rows: int, time: int, device: torch.device | str = "cpu") -> Context:
        """Every row is one sequence that begins at position 0."""
        return cls(torch.arange(time, device=device).expand(rows, time))

    @classmethod
    def packed(cls, segments: Tensor) -> Context:
        """Several sequences per row; `segments` (rows, time), equal and adjacent within a sequence, -1 for padding."""
        index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
        starts = torch.zeros_like(segments, dtype=torch.bool)
        starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
        first = torch.where(starts, index, 0).cummax(dim=1).values  # index at which the token's own sequence begins
        return cls(index - first, segments)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed at the first call for `key` in this pass and then shared by all layers."""
        if key not in self._made:
            self._made[key] = make()
        value: T = self._made[key]
        return value
