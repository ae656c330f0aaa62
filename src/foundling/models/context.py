"""What a forward pass knows beside the tokens: positions, which sequence each belongs to, and where the cache is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from foundling.models.routing import Routing

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
class Encoded:
    """The encoder's output, kept for all the decoder's steps; cross attention keeps its keys and values here."""

    hidden: Tensor  # (rows, encoder time, dim)
    segments: Tensor | None = None  # (rows, encoder time): which are for whom, -1 for padding; None: all for all
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed at the first call for `key` and then kept."""
        return _once(self._made, key, make)


@dataclass
class Tree:
    """Several continuations of one beginning in a row: a token sees its own branch, not all that lies before it."""

    visible: Tensor  # (rows, time, keys) bool; the keys are the cached ones, then the row's own tokens
    positions: Tensor  # (rows, keys) int64 position of each key


@dataclass
class Context:
    """Positions, segments and cache of one forward pass. Make a new one for each pass: it remembers masks and tables.

    Tokens attend only within an equal segment; -1 marks padding. `segments=None`: every row is one whole sequence.
    """

    positions: Tensor  # (rows, time) int64 position of each token in its own sequence
    segments: Tensor | None = None  # (rows, time) int64, or None
    cache: CacheView | None = None
    tree: Tree | None = None  # in place of the order of tokens and of segments
    prefix: Tensor | None = None  # (rows,) int64: this many leading tokens see each other both ways (prefix LM)
    token_types: Tensor | None = None  # (rows, time) int64 kind of each token (BERT's segments); None: all 0
    encoded: Encoded | None = None  # for decoders that attend to an encoder
    relative_bias: Callable[[Tensor, Tensor], Tensor] | None = None  # set by a stack that has one
    routing: list[Routing] = field(default_factory=list)  # filled by the mixture-of-experts layers, first to last
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
        return _once(self._made, key, make)


def _once(made: dict[Hashable, Any], key: Hashable, make: Callable[[], T]) -> T:
    if key not in made:
        made[key] = make()
    value: T = made[key]
    return value
