"""What flows into a model's layers on some text: measured block by block, with one block in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.models.layers.block import Block

ROWS = 8  # sequences in a forward pass


@dataclass
class Moments:
    """Sums over the inputs of one layer: gram (in, in) Σ x xᵀ and absolute (in,) Σ |x|, over `count` tokens."""

    gram: Tensor
    absolute: Tensor
    count: int = 0

    @property
    def mean_abs(self) -> Tensor:
        """(in,) mean |x|."""
        return self.absolute / max(self.count, 1)

    @property
    def dead(self) -> int:
        """Inputs that were zero on every token."""
        return int((self.gram.diagonal() == 0).sum())

    def add(self, x: Tensor) -> None:
        """Count inputs (..., in)."""
        x = x.detach().flatten(0, -2).float()
        self.gram.addmm_(x.t(), x)
        self.absolute += x.abs().sum(0)
        self.count += x.shape[0]

    def divided(self, scales: Tensor) -> Moments:
        """Of inputs divided by scales (in,)."""
        return replace(self, gram=self.gram / scales / scales.unsqueeze(1), absolute=self.absolute / scales)


Treat = Callable[[int, Block, dict[str, Moments]], None]


def walk(
    module: LanguageModel,
    tokens: Tensor,
    read: Callable[[str], None],
    treat: Treat,
    leave: Callable[[Block], None] = lambda block: None,
) -> None:
    """Visit the blocks in order: read one, measure its layers' inputs, treat it, and compute the next one's inputs.

    The inputs of a block are those that the treated blocks before it give, so that later blocks can make up for them.

    Args:
        tokens: (rows, time).
        read: brings the tensors under a prefix into memory, in float32.
        treat: changes the block in place, given its number and the moments of its linear layers by name.
        leave: called with each block when it is no longer needed.
    """
    if module.encoder is not None:
        raise FoundlingError("calibration does not know encoder-decoders", "", "Use method 'nearest' or 'search'")
    read("embedding.")
    read("inputs.")
    with torch.no_grad():
        hidden, contexts = embedded(module, tokens)
        for number in range(len(module.blocks)):
            read(f"blocks.{number}.")
            block = cast(Block, module.blocks[number]).eval()
            with measured(block) as moments:
                for x, ctx in zip(hidden, contexts, strict=True):
                    block(x, ctx)
            treat(number, block, moments)
            hidden = [block(x, ctx) for x, ctx in zip(hidden, contexts, strict=True)]
            leave(block)


def embedded(module: LanguageModel, tokens: Tensor) -> tuple[list[Tensor], list[Context]]:
    """The first block's inputs (rows, time, dim) for tokens (rows, time), a few rows at a time, with their contexts."""
    batches = tokens.split(ROWS)
    contexts = [Context.full(batch.shape[0], batch.shape[1], tokens.device) for batch in batches]
    hidden = [module.inputs(module.embedding(batch), ctx) for batch, ctx in zip(batches, contexts, strict=True)]
    return hidden, contexts


@contextmanager
def measured(block: nn.Module) -> Iterator[dict[str, Moments]]:
    """While in the block, sum up what goes into its linear layers; layers that are given the same tensor share it."""
    moments: dict[str, Moments] = {}
    last: list[tuple[Tensor, Moments]] = []

    def see(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if last and last[0][0] is x:
            moments[name] = last[0][1]
            return
        own = moments.get(name)
        if own is None:
            size = x.shape[-1]
            own = moments[name] = Moments(x.new_zeros(size, size, dtype=torch.float32), x.new_zeros(size))
        own.add(x)
        last[:] = [(x, own)]

    hooks = [
        layer.register_forward_pre_hook(partial(see, name))
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def calibration_rows(documents: Sequence[Sequence[int]], rows: int, length: int) -> Tensor:
    """(rows, length) tokens: the documents one after another, cut into rows.

    Raises:
        FoundlingError: there are too few tokens.
    """
    stream = [token for document in documents for token in document]
    if len(stream) < length:
        raise FoundlingError(
            f"the calibration text has {len(stream)} tokens, less than one row of {length}",
            "",
            "Give more text, or a smaller calibration_length",
        )
    rows = min(rows, len(stream) // length)
    return torch.tensor(stream[: rows * length]).view(rows, length)
