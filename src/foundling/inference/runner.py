"""From planned chunks to hidden states: builds the tensors of a forward pass and owns the cache's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from foundling.inference.blocks import TRASH
from foundling.inference.scheduler import Chunk
from foundling.models.context import CacheView, Context
from foundling.models.language_model import LanguageModel
from foundling.models.layers.paged import PagedKV

PADDING_ALLOWED = 0.6  # chunks share a pass if the shortest is at least this fraction of the longest


@dataclass(frozen=True)
class Pass:
    """One forward pass: its chunks, one per row, and the hidden states (rows, time, dim) of their tokens."""

    chunks: list[Chunk]
    hidden: Tensor


class Runner:
    """Runs the module on chunks of sequences, over a paged cache.

    Args:
        n_blocks: blocks of the cache, the trash block not counted.
        max_batch: slots; slot 0 is the trash of recurrent states.
        longest: most tokens of one sequence.
        dtype: precision of the pass and of the cache; None: the weights'.
    """

    def __init__(
        self,
        module: LanguageModel,
        n_blocks: int,
        block_size: int,
        max_batch: int,
        longest: int,
        dtype: torch.dtype | None,
    ) -> None:
        self.module, self.block_size = module, block_size
        weight = next(module.parameters())
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self._autocast = self.dtype != weight.dtype
        self.state = module.new_state(max_batch + 1, n_blocks + 1, block_size, self.dtype, self.device)
        self._table = np.zeros((max_batch + 1, -(-longest // block_size)), dtype=np.int64)
        self._in_table = [0] * (max_batch + 1)

    def run(self, chunks: Sequence[Chunk]) -> Iterator[Pass]:
        """Compute the chunks in as few passes as padding allows: all single tokens in one, prompts by length."""
        for chunk in chunks:
            self._update_table(chunk)
        for group in _groups(chunks):
            tokens, ctx = self._inputs(group)
            with self.precision():
                hidden = self.module.hidden(tokens, ctx, self.state)
            yield Pass(group, hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, vocab) float32 of hidden states (n, dim)."""
        with self.precision():
            return self.module.head(hidden).float()

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, if the pass is to run in another precision than the weights'."""
        return torch.autocast(self.device.type, self.dtype) if self._autocast else nullcontext()

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy the cache blocks (source, destination) in every layer."""
        if not copies:
            return
        source, destination = torch.tensor(copies, device=self.device).T
        for layer in self._paged():
            for pool in (layer.keys, layer.values):
                pool[destination] = pool[source]

    def clear_blocks(self, blocks: Sequence[int]) -> None:
        """Zero blocks that hold NaN: even masked it would poison whoever gets them next."""
        where = torch.tensor(blocks, device=self.device)
        for layer in self._paged():
            layer.keys[where] = 0
            layer.values[where] = 0

    def _paged(self) -> list[PagedKV]:
        return [layer for layer in self.state if isinstance(layer, PagedKV)]

    def _update_table(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        slot, blocks = sequence.slot, sequence.blocks
        known = 0 if chunk.start == sequence.reused else self._in_table[slot]  # its first chunk: a new owner
        if known != len(blocks):
            self._table[slot, known : len(blocks)] = blocks[known:]
            self._in_table[slot] = len(blocks)

    def _inputs(self, chunks: list[Chunk]) -> tuple[Tensor, Context]:
        size = self.block_size
        slots = np.array([chunk.sequence.slot for chunk in chunks])
        starts = np.array([chunk.start for chunk in chunks])
        lengths = np.array([chunk.length for chunk in chunks])
        time = int(lengths.max())
        offsets = np.arange(time)
        inside = np.minimum(offsets, lengths[:, None] - 1)
        positions = starts[:, None] + inside  # padding repeats the last position, so that no table is overrun
        table = self._table[slots, : int((starts + lengths).max() - 1) // size + 1]
        used = -(-(starts + lengths) // size)
        # Beyond its end a row looks at its own first block: masked, and not poisoned by another row's NaN.
        table = np.where(np.arange(table.shape[1]) < used[:, None], table, table[:, :1])
        rows = np.arange(len(chunks))[:, None]
        write = table[rows, positions // size] * size + positions % size
        write = np.where(offsets < lengths[:, None], write, TRASH)
        view = CacheView(*(self._tensor(part) for part in (write, table, starts, lengths, slots)))
        return self._tensor(_tokens(chunks, time)), Context(self._tensor(positions), None, view)

    def _tensor(self, array: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


@contextmanager
def inference_of(module: nn.Module) -> Iterator[None]:
    """Without gradients and with dropout off; the module's training mode is put back afterwards.

    Not `torch.inference_mode`: a table that the module makes now may be needed by a training step later.
    """
    training = module.training
    if training:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            module.train()


def _groups(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    ordered = sorted(chunks, key=lambda chunk: -chunk.length)
    group: list[Chunk] = []
    for chunk in ordered:
        if group and (chunk.length < PADDING_ALLOWED * group[0].length):
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def _tokens(chunks: list[Chunk], time: int) -> npt.NDArray[np.int64]:
    if time == 1:
        return np.array([[chunk.sequence.tokens[chunk.start]] for chunk in chunks])
    tokens = np.zeros((len(chunks), time), dtype=np.int64)
    for row, chunk in enumerate(chunks):
        tokens[row, : chunk.length] = chunk.sequence.tokens[chunk.start : chunk.start + chunk.length]
    return tokens
