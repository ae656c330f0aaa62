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
from foundling.inference.encodings import Encodings
from foundling.inference.kv_int8 import Int8KV
from foundling.inference.scheduler import Chunk
from foundling.inference.scheduler import Sequence as Tokens
from foundling.models.adapter_bank import AdapterBank
from foundling.models.config import MoEConfig
from foundling.models.context import CacheView, Context
from foundling.models.kernels.decoder import NativeDecoder, native
from foundling.models.language_model import LanguageModel
from foundling.models.layers.paged import PagedKV, PagedLatent, is_recurrent

TILE = 16  # tokens of a pass in batch-invariant mode
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
        int8_cache: keep keys and values in 8 bits.
        batch_invariant: compute every token in a pass whose shape depends on its position alone (see `_tiled`).
    """

    def __init__(
        self,
        module: LanguageModel,
        n_blocks: int,
        block_size: int,
        max_batch: int,
        longest: int,
        dtype: torch.dtype | None,
        int8_cache: bool = False,
        batch_invariant: bool = False,
    ) -> None:
        self.module, self.block_size, self.batch_invariant = module, block_size, batch_invariant
        weight = next(module.parameters())
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self._autocast = self.dtype != weight.dtype
        self._int8_cache = int8_cache
        self._forward: LanguageModel | NativeDecoder = module
        self.adapters = AdapterBank(module)
        self.encodings = Encodings(n_blocks * block_size)
        self.weights_changed()
        self.state = module.new_state(max_batch + 1, n_blocks + 1, block_size, self.dtype, self.device)
        if int8_cache:
            self.state = [Int8KV(layer) if type(layer) is PagedKV else layer for layer in self.state]
        self._table = np.zeros((max_batch + 1, -(-longest // block_size)), dtype=np.int64)
        self._in_table = [0] * (max_batch + 1)
        self._owners = [(0, 0)] * (max_batch + 1)
        experts = any(isinstance(block.ffn, MoEConfig) for block in module.config.blocks)
        self._tile = 1 if self.recurrent or experts else TILE  # states and experts' shares depend on a pass's tokens

    @property
    def recurrent(self) -> bool:
        """Whether some layer keeps one state per sequence, which cannot be shared block by block or rewound."""
        return is_recurrent(self.state)

    @property
    def native_decoder(self) -> NativeDecoder | None:
        """The native kernels, where they compute this model."""
        return self._forward if isinstance(self._forward, NativeDecoder) else None

    def run(self, chunks: Sequence[Chunk]) -> Iterator[Pass]:
        """Compute the chunks in as few passes as padding allows: all single tokens in one, prompts by length.

        Rows with adapters share passes with the others, unless those have the native kernels, which know no adapters.
        """
        for chunk in chunks:
            self._update_table(chunk)
        adapted = [chunk for chunk in chunks if chunk.sequence.adapter is not None]
        plain = [chunk for chunk in chunks if chunk.sequence.adapter is None]
        if self._forward is self.module and (adapted or self.batch_invariant):
            adapted, plain = [*adapted, *plain], []
        for group in _groups(plain):
            yield self._pass(group, self._forward)
        if self.batch_invariant:
            yield from map(self._tiled, adapted)
            return
        for group in _groups(adapted):
            yield self._pass(group, self.adapters.module)

    def _tiled(self, chunk: Chunk) -> Pass:
        """One chunk in passes over single tiles of its positions, always of full length and in the cached form.

        A token then is the same row of products and sums of the same shapes whatever else is computed and however the
        prompt was cut, so that its result is the same to the last bit. The native kernels have that property anyway.
        """
        tile, known = self._tile, chunk.tokens
        sequence, end = chunk.sequence, chunk.start + chunk.length
        pieces = []
        for begin in range(chunk.start // tile * tile, end, tile):
            first, last = max(begin, chunk.start), min(begin + tile, end)
            tokens = torch.zeros(1, tile, dtype=torch.int64)
            inside = slice(first - begin, last - begin)
            tokens[0, inside] = torch.tensor(known[first - chunk.start : last - chunk.start])
            pieces.append(self._run_tile(sequence, tokens.to(self.device), begin, inside)[:, inside])
        return Pass([chunk], torch.cat(pieces, dim=1))

    def _run_tile(self, sequence: Tokens, tokens: Tensor, begin: int, inside: slice) -> Tensor:
        size, time = self.block_size, tokens.shape[1]
        positions = begin + np.arange(time)
        table = self._table[[sequence.slot], : (begin + time - 1) // size + 1]
        table = np.where(np.arange(table.shape[1]) < len(sequence.blocks), table, table[:, :1])
        write = np.full(time, TRASH)
        write[inside] = (table[0, positions // size] * size + positions % size)[inside]
        past, one = np.array([begin + inside.start]), np.array([inside.stop - inside.start])
        # A first tile claims a past too: it must read the cache as later ones do, and not only itself.
        past = past if self.recurrent else np.maximum(past, 1)
        slots = np.array([sequence.slot])
        view = CacheView(*(self._tensor(part) for part in (write[None], table, past, one, slots)))
        return self._hidden(
            [sequence], tokens, Context(self._tensor(positions[None]), None, view), self.adapters.module
        )

    def _pass(self, group: list[Chunk], forward: LanguageModel | NativeDecoder) -> Pass:
        return Pass(group, self._hidden([chunk.sequence for chunk in group], *self._inputs(group), forward))

    def _hidden(
        self, sequences: list[Tokens], tokens: Tensor, ctx: Context, forward: LanguageModel | NativeDecoder
    ) -> Tensor:
        if isinstance(forward, LanguageModel) and forward.encoder is not None:
            self._encode(self.encodings.missing(sequences), forward)
            ctx.encoded = self.encodings.joined(sequences)
        self._choose_adapters(sequences)
        with self.precision():
            return forward.hidden(tokens, ctx, self.state)

    def _encode(self, sequences: list[Tokens], forward: LanguageModel) -> None:
        """Run the encoder over the sequences' sources, one row each."""
        if not sequences:
            return
        tokens, segments = padded([sequence.source for sequence in sequences])
        self._choose_adapters(sequences)
        with self.precision():
            encoded = forward.encode(tokens.to(self.device), Context.packed(segments.to(self.device)))
        self.encodings.keep(sequences, encoded.hidden)

    def _choose_adapters(self, sequences: list[Tokens]) -> None:
        numbers = [self.adapters.number(sequence.adapter) for sequence in sequences]
        self.adapters.rows = torch.tensor(numbers, device=self.device) if any(numbers) else None

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, vocab) float32 of hidden states (n, dim)."""
        if self.batch_invariant and self._forward is self.module and len(hidden) > 1:
            return torch.cat([self.head(row) for row in hidden.split(1)])
        with self.precision():
            return self._forward.head(hidden).float()

    def weights_changed(self) -> None:
        """Take the native kernels where they support the module (their copies of small weights are made anew)."""
        if self.device.type == "cpu" and not self._autocast and not self._int8_cache:
            self._forward = native(self.module) or self.module
        self.adapters.refresh()

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, if the pass is to run in another precision than the weights'."""
        return torch.autocast(self.device.type, self.dtype) if self._autocast else nullcontext()

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy the cache blocks (source, destination) in every layer."""
        if not copies:
            return
        source, destination = torch.tensor(copies, device=self.device).T
        for pool in self._pools():
            pool[destination] = pool[source]

    def clear_blocks(self, blocks: Sequence[int]) -> None:
        """Zero blocks that hold NaN: even masked it would poison whoever gets them next."""
        where = torch.tensor(blocks, device=self.device)
        for pool in self._pools():
            pool[where] = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a decoding step reads: all but an embedding that only looks up single rows."""
        module = self.module
        tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        if module.output is not None:
            tensors.pop(id(module.embedding.weight))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, all layers."""
        return sum(pool[0, 0].numel() * pool.element_size() for pool in self._pools())

    def _pools(self) -> list[Tensor]:
        """Every tensor of the cache whose first two dimensions are block and offset."""
        pools: list[Tensor] = []
        for layer in self.state:
            if isinstance(layer, Int8KV):
                pools += layer.pools
            elif isinstance(layer, PagedKV):
                pools += [layer.keys, layer.values]
            elif isinstance(layer, PagedLatent):
                pools.append(layer.latents)
        return pools

    def _update_table(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        slot, blocks, owner = sequence.slot, sequence.blocks, (sequence.id, sequence.admissions)
        known = self._in_table[slot] if self._owners[slot] == owner else 0
        if known != len(blocks):
            self._table[slot, known : len(blocks)] = blocks[known:]
            self._in_table[slot], self._owners[slot] = len(blocks), owner

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


def padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token sequences as rows (rows, longest) int64, and their segments: 0, or -1 for padding."""
    tokens = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.int64)
    segments = torch.full_like(tokens, -1)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
        segments[row, : len(prompt)] = 0
    return tokens, segments


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
        return np.array([chunk.tokens for chunk in chunks])
    tokens = np.zeros((len(chunks), time), dtype=np.int64)
    for row, chunk in enumerate(chunks):
        tokens[row, : chunk.length] = chunk.tokens
    return tokens
