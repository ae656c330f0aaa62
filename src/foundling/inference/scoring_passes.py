"""How a pass of `scoring_trees.py` is computed: rows behind a prefix that all of them begin with, computed once."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from foundling.inference.runner import Runner, inference_of
from foundling.models.context import CacheView, Context, Tree
from foundling.models.kernels.decoder import NativeDecoder
from foundling.models.kernels.packed import PackedForward

BLOCK = 16  # tokens of a block of NativeBehind's cache


class Forward(Protocol):
    """Passes behind one prefix of `start` tokens; 0: none has been read."""

    start: int
    pass_tokens: int  # at most, padding included

    def room(self, length: int) -> int:
        """Tokens of a pass that a row of this length takes."""
        return length

    def read(self, tokens: Tensor) -> None:
        """Compute the prefix (1, start)."""

    def hidden(
        self, tokens: Tensor, positions: Tensor, valid: Tensor, outputs: Tensor, visible: Tensor | None
    ) -> Tensor:
        """Hidden states (outputs, dim) of some of the valid tokens (rows, time) behind the prefix.

        Args:
            visible: (rows, time, time) bool, which of its row's tokens each sees; None: those before it.
        """


class PackedBehind(Forward):
    """Passes by the packed forward pass."""

    pass_tokens = 2048

    def __init__(self, packed: PackedForward) -> None:
        self.packed, self.start = packed, 0
        self.prefix: list[tuple[Tensor, Tensor]] = []

    def read(self, tokens: Tensor) -> None:
        """Compute the prefix (1, start)."""
        self.start = tokens.shape[1]
        with inference_of(self.packed.module):
            self.prefix = self.packed.keys_values(tokens, Context.full(1, self.start))

    def hidden(
        self, tokens: Tensor, positions: Tensor, valid: Tensor, outputs: Tensor, visible: Tensor | None
    ) -> Tensor:
        """As `Forward.hidden`."""
        tree = None if visible is None else Tree(visible, positions)
        return self.packed.hidden(tokens, Context(positions, tree=tree), valid, outputs, self.prefix)


class NativeBehind(Forward):
    """Passes by the native decoder, over a paged cache of their own. Every token sees those before it in its row."""

    pass_tokens = 1024  # more and the threads' shares outgrow their caches

    def __init__(self, decoder: NativeDecoder, dtype: torch.dtype, start: int) -> None:
        self.decoder, self.dtype, self.start = decoder, dtype, start
        self.state: list[Any] = []

    def read(self, tokens: Tensor) -> None:
        """Compute the prefix (1, start)."""
        self._grow(1 + -(-self.start // BLOCK))
        table = torch.arange(1, 1 + -(-self.start // BLOCK))[None]
        for at in range(0, self.start, self.pass_tokens):
            part = tokens[:, at : at + self.pass_tokens]
            positions = at + torch.arange(part.shape[1])[None]
            self._run(part, positions, torch.ones_like(part, dtype=torch.bool), table, at)

    def room(self, length: int) -> int:
        """As `Forward.room`: whole blocks, and the prefix's last one may be begun."""
        return -(-(length + self.start % BLOCK) // BLOCK) * BLOCK

    def hidden(
        self, tokens: Tensor, positions: Tensor, valid: Tensor, outputs: Tensor, visible: Tensor | None
    ) -> Tensor:
        """As `Forward.hidden`."""
        assert visible is None, "rows with branches are not the native decoder's"
        rows, whole, rest = tokens.shape[0], self.start // BLOCK, self.start % BLOCK
        each = -(-(rest + tokens.shape[1]) // BLOCK)
        first = 1 + whole + (rest > 0)
        self._grow(first + rows * each)
        own = torch.arange(first, first + rows * each).view(rows, each)
        if rest:  # each row goes on in a block of its own
            for layer in self.state:
                layer.keys[own[:, 0]] = layer.keys[1 + whole].clone()
                layer.values[own[:, 0]] = layer.values[1 + whole].clone()
        table = torch.cat((torch.arange(1, 1 + whole).expand(rows, -1), own), 1)
        return self._run(tokens, positions, valid, table, self.start)[valid][outputs].to(self.dtype)

    def _run(self, tokens: Tensor, positions: Tensor, valid: Tensor, table: Tensor, start: int) -> Tensor:
        slots = torch.where(valid, table.gather(1, positions // BLOCK) * BLOCK + positions % BLOCK, 0)
        rows = torch.zeros(tokens.shape[0], dtype=torch.int64)
        view = CacheView(slots, table, rows + start, valid.sum(1), rows)
        with inference_of(self.decoder.module):
            return self.decoder.hidden(tokens, Context(positions, cache=view), self.state)

    def _grow(self, blocks: int) -> None:
        """Room for so many blocks, and at least a pass; what the prefix's hold stays."""
        if self.state and self.state[0].keys.shape[0] >= blocks:
            return
        before, kept = self.state, 1 + -(-self.start // BLOCK)
        blocks = max(blocks, kept + self.pass_tokens // BLOCK)
        self.state = list(self.decoder.module.new_state(1, blocks, BLOCK, self.dtype, "cpu"))
        for old, new in zip(before, self.state, strict=False):
            new.keys[:kept], new.values[:kept] = old.keys[:kept], old.values[:kept]


class ModuleBehind(Forward):
    """Passes by the module itself, which can do it for every model with keys and values."""

    pass_tokens = 2048

    def __init__(self, runner: Runner) -> None:
        self.runner, self.start = runner, 0
        self.state: list[Beginning] = []

    def read(self, tokens: Tensor) -> None:
        """Compute the prefix (1, start)."""
        self.start = tokens.shape[1]
        self.state = [Beginning() for _ in self.runner.state]
        ctx = Context.full(1, self.start, tokens.device)
        ctx.cache = _cache(tokens.new_zeros(1))
        with inference_of(self.runner.module), self.runner.precision():
            self.runner.module.hidden(tokens, ctx, self.state)

    def hidden(
        self, tokens: Tensor, positions: Tensor, valid: Tensor, outputs: Tensor, visible: Tensor | None
    ) -> Tensor:
        """As `Forward.hidden`."""
        rows, time = tokens.shape
        ctx = Context(positions)
        if visible is None and self.start:
            visible = valid.new_ones(time, time).tril().expand(rows, -1, -1)
        if visible is not None:
            before = torch.arange(self.start, device=tokens.device).expand(rows, -1)
            all_before = visible.new_ones(rows, time, self.start)
            ctx.tree = Tree(torch.cat((all_before, visible), 2), torch.cat((before, positions), 1))
        if self.start:
            ctx.cache = _cache(tokens.new_full((rows,), self.start))
        return self.runner.module.hidden(tokens, ctx, self.state or None)[valid][outputs]


class Beginning:
    """One layer's state behind rows that begin alike: what the prefix's pass wrote, seen by every row before its own.

    Stands in for PagedKV and PagedLatent: `write` what a pass adds, then `read` all that its tokens may see.
    """

    def __init__(self) -> None:
        self.prefix: tuple[Tensor, ...] = ()  # each (1, prefix, ...)
        self.own: tuple[Tensor, ...] = ()  # each (rows, time, ...)

    def write(self, cache: CacheView, *parts: Tensor) -> None:
        """Keep the prefix's keys and values (or latents), or those of rows behind it."""
        if self.prefix:
            self.own = parts
        else:
            self.prefix = parts

    def read(self, cache: CacheView) -> Any:
        """The prefix's and each row's own, (rows, prefix + time, ...): a pair, or one tensor where one was written."""
        both = [
            torch.cat((first.expand(own.shape[0], *first.shape[1:]), own), 1)
            for first, own in zip(self.prefix, self.own, strict=True)
        ]
        return tuple(both) if len(both) > 1 else both[0]


def _cache(lengths: Tensor) -> CacheView:
    """A view for layers whose state is a Beginning: it needs to know only how much came before."""
    none = lengths.new_zeros(0)
    return CacheView(none, none, lengths, none, none)
