"""A whole forward pass over the paged cache in one native call, for stacks of attention and gated feed-forward blocks.

At batch 1 a step of a small model is some two hundred operators, whose overhead costs more than their work; here it is
one call, and the weights are read once. The numbers are the module's own (it is the reference; see
tests/unit/kernels): the residual stream is float32, and the inputs of integer weights are rounded to int8 with a scale
per group, as llama.cpp does. Bfloat16 weights are multiplied in the CPU's tiles where it has them (`tiles.h`). A
token's result does not depend on the batch that it is computed in.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from foundling.models.config import AttentionConfig, MLPConfig, NormConfig, RopeConfig
from foundling.models.context import Context
from foundling.models.kernels.panels import PANEL, Weight, head_of, weight_of
from foundling.models.kernels.structs import BF16, Cache, Inputs, Layer, Matrix, Pass, Shape, address, compiled, tiles
from foundling.models.language_model import Block, LanguageModel
from foundling.models.layers.norm import Norm
from foundling.models.layers.paged import PagedKV
from foundling.models.layers.parts import LayerState
from foundling.models.layers.rope import rope_tables

RUN, TILE_RUN = 4, 16  # neighbouring tokens of a row that share a pass over its keys; the same in tiles
FEW = 64  # from so many tokens on, products in tiles arrange the weights, not the inputs
TILE_ROWS = 32  # inputs and results of products in tiles have whole groups of so many rows
TILE_WORK = 10  # `tile_attention.h`: vectors that it works in, per dimension of a head
TILE_WIDEST = 256  # and the most dimensions of a head
PRODUCTS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass
class Space:
    """Work space for passes of up to `tokens` tokens by `threads` threads, kept between passes."""

    tokens: int
    longest: int
    threads: int
    tensors: dict[str, Tensor]


class NativeDecoder:
    """Runs `module` by the native kernels: `hidden` and `head` as of LanguageModel, for cached decoding on the CPU.

    Make one with `native`. Dense weights are read where they lie, so in-place updates are seen; a module whose
    parameters are replaced needs a new decoder.
    """

    def __init__(
        self, module: LanguageModel, library: ctypes.CDLL, weights: dict[str, Weight], head: list[Weight]
    ) -> None:
        self.module, self.library, self.weights, self.heads = module, library, weights, head
        kinds = {weight.struct.kind for weight in (*weights.values(), *head)}
        self.tiles = BF16 in kinds and tiles()
        self.config = module.config
        self.norms: list[Tensor] = []
        self.ropes: list[tuple[RopeConfig, int]] = []
        self.layers = (Layer * len(module.blocks))(
            *(self._layer(i, cast(Block, b)) for i, b in enumerate(module.blocks))
        )
        self.norm = self._norm(module.norm)
        self.widths = (
            max(layer.q.n + layer.k.n + layer.v.n for layer in self.layers),
            2 * max(layer.gate.n for layer in self.layers),
        )
        self.inputs = {
            "wide": self.config.dim,
            "mid": max(layer.o.k for layer in self.layers),
            "inner": max(layer.down.k for layer in self.layers),
        }
        self.space: Space | None = None

    def hidden(self, tokens: Tensor, ctx: Context, state: list[LayerState]) -> Tensor:
        """Final hidden states (rows, time, dim) float32 of tokens (rows, time); zero at padding. Needs ctx.cache."""
        cache = ctx.cache
        assert cache is not None, "the native decoder computes cached passes only"
        rows, time = tokens.shape
        valid = torch.arange(time) < cache.new_lengths[:, None]
        whole = bool(valid.all())
        where = slice(None) if whole else valid.flatten()
        row_of = torch.arange(rows).repeat_interleave(cache.new_lengths)
        positions = ctx.positions.flatten()[where].contiguous()
        ids = tokens.flatten()[where]
        x = torch.empty(_whole(ids.shape[0]), self.config.dim)
        x[: ids.shape[0]] = self.module.embedding.weight.detach()[ids]
        ropes = [self._tables(rope, width, ctx, where) for rope, width in self.ropes]
        self._attach(state)
        slots = cache.write_slots.flatten()[where].contiguous()
        work = self._pass(x, positions, row_of, slots, cache.block_table)
        pointers = (ctypes.c_void_p * max(len(ropes), 1))(*(address(table) for table in ropes))
        work.in_tiles = in_tiles = tiles() and all(map(_attention_fits_tiles, self.layers))
        runs = _runs(cache.new_lengths.tolist(), in_tiles)
        work.rope = ctypes.cast(pointers, ctypes.c_void_p).value
        work.runs, work.n_runs = address(runs), runs.shape[0]
        self.library.decoder_pass(ctypes.byref(work), torch.get_num_threads())
        x = x[: ids.shape[0]]
        if whole:
            return x.view(rows, time, -1)
        out = x.new_zeros(rows * time, x.shape[1])
        out[where] = x
        return out.view(rows, time, -1)

    def head(self, h: Tensor) -> Tensor:
        """Logits (..., vocab) float32 of hidden states (..., dim)."""
        parts = [linear(self.library, weight.struct, h, self.tiles) for weight in self.heads]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)[..., : self.config.vocab_size]

    def _layer(self, index: int, block: Block) -> Layer:
        attention, mlp = cast(AttentionConfig, block.mixer.config), block.ffn
        assert mlp is not None and block.ffn_norm is not None
        layer = Layer(**{name: self.weights[f"{index}.{name}"].struct for name in PRODUCTS})
        layer.mixer_norm, layer.mixer_eps = self._norm(block.mixer_norm)
        layer.ffn_norm, layer.ffn_eps = self._norm(block.ffn_norm)
        if attention.qk_norm is not None:
            layer.q_norm, layer.qk_eps = self._norm(block.mixer.q_norm)
            layer.k_norm, _ = self._norm(block.mixer.k_norm)
        layer.rope = -1
        if attention.rope is not None:
            key = (attention.rope, attention.head_dim)
            if key not in self.ropes:
                self.ropes.append(key)
            layer.rope = self.ropes.index(key)
        heads, width = attention.n_heads, attention.head_dim
        layer.shape = Shape(heads, attention.n_kv_heads, width, 0, attention.window or 0, width**-0.5)
        return layer

    def _norm(self, norm: object) -> tuple[int | None, float]:
        """Address and epsilon of a norm's scales, kept as float32."""
        assert isinstance(norm, Norm)
        scales = norm.weight.detach().float() + (1.0 if norm.config.unit_offset else 0.0)
        self.norms.append(scales.contiguous())
        return address(self.norms[-1]), norm.config.eps

    def _attach(self, state: list[LayerState]) -> None:
        for layer, paged in zip(self.layers, state, strict=True):
            assert isinstance(paged, PagedKV)
            layer.shape.block_size = paged.keys.shape[1]
            layer.cache = Cache(address(paged.keys), address(paged.values), int(paged.keys.dtype == torch.bfloat16))

    def _tables(self, rope: RopeConfig, width: int, ctx: Context, where: slice | Tensor) -> Tensor:
        """(tokens, 2, head_dim): cosines and signed sines."""
        cos, sin = rope_tables(rope, width, ctx, torch.float32)
        return torch.stack((cos.flatten(0, 2)[where], sin.flatten(0, 2)[where]), dim=1).contiguous()

    def _pass(self, x: Tensor, positions: Tensor, rows: Tensor, slots: Tensor, table: Tensor) -> Pass:
        table = table.contiguous()
        longest = -(-table.shape[1] * self.layers[0].shape.block_size // PANEL) * PANEL
        space = self._space(positions.shape[0], longest).tensors
        config = self.config
        inputs = [
            Inputs(
                *(address(space[f"{name}_{part}"]) for part in ("values", "codes", "scales", "zeros")), k, 0, 0,
                address(space[f"{name}_pairs"]) if self.tiles else None,
            )
            for name, k in self.inputs.items()
        ]  # fmt: skip
        work = Pass(
            self.layers, len(self.layers), config.dim, *self.norm, positions.shape[0], table.shape[1], longest,
            address(x), address(rows), address(positions), address(slots), address(table), None, *inputs,
            address(space["qkv"]), address(space["gated"]), *self.widths,
            address(space["scores"]), address(space["keys"]), space["scores"].shape[1], space["keys"].shape[1] // PANEL,
            None, 0, 0,
        )  # fmt: skip
        work.keep = (table, rows, positions, slots)
        return work

    def _space(self, tokens: int, longest: int) -> Space:
        kept, threads = self.space, torch.get_num_threads()
        if kept is None:
            self.space = self._new_space(tokens, longest, threads)
        elif kept.tokens < tokens or kept.longest < longest or kept.threads < threads:
            sizes = max(tokens, kept.tokens), max(longest, kept.longest), max(threads, kept.threads)
            self.space = kept = None  # its memory goes to the new one
            self.space = self._new_space(*sizes)
        assert self.space is not None
        return self.space

    def _new_space(self, tokens: int, longest: int, threads: int) -> Space:
        tokens = _whole(tokens)
        tensors = {
            "qkv": torch.empty(tokens, self.widths[0]),
            "gated": torch.empty(tokens, self.widths[1]),
            "scores": torch.empty(threads, 3 * RUN * longest),
            "keys": _aligned(threads, TILE_WORK * max(layer.shape.head_dim for layer in self.layers) * PANEL),
        }
        for name, k in self.inputs.items():
            tensors[f"{name}_values"] = torch.empty(tokens, k)
            tensors[f"{name}_codes"] = _codes(tokens, k)
            tensors[f"{name}_pairs"] = _pairs(min(tokens, FEW) if self.tiles else 0, k)
            tensors[f"{name}_scales"] = torch.empty(tokens, k // PANEL)
            tensors[f"{name}_zeros"] = torch.empty(tokens, k // PANEL, dtype=torch.int32)
        return Space(tokens, longest, threads, tensors)


def linear(library: ctypes.CDLL, weight: Matrix, x: Tensor, in_tiles: bool = False) -> Tensor:
    """x (..., k) -> x W^T + bias (..., n) float32 by the kernels."""
    rows = x.flatten(0, -2).float().contiguous()
    n, groups = rows.shape[0], weight.k // weight.group if weight.group else 1
    codes, scales = _codes(n, weight.k), torch.empty(n, groups)
    zeros, y = torch.empty(n, groups, dtype=torch.int32), torch.empty(_whole(n), weight.n)
    pairs = _pairs(min(n, FEW), weight.k) if in_tiles and weight.kind == BF16 else None
    inputs = Inputs(address(rows), address(codes), address(scales), address(zeros), weight.k, 0, 0, address(pairs))
    library.linear(ctypes.byref(weight), ctypes.byref(inputs), n, address(y), weight.n, torch.get_num_threads())
    return y[:n].unflatten(0, x.shape[:-1])


def native(module: LanguageModel) -> NativeDecoder | None:
    """The module's native decoder, or None where its architecture, weights or this machine do not allow one."""
    if not module.config.llama_shaped or not all(map(block_supported, module.config.blocks)):
        return None
    if type(module.embedding) is not nn.Embedding:  # a learned prompt has ids that are no row of the matrix
        return None
    if not norm_supported(module.config.norm):
        return None
    library = compiled()
    if library is None or module.config.dim % PANEL:
        return None
    weights: dict[str, Weight] = {}
    for name, layer in _linear_layers(module):
        weight = weight_of(layer)
        if weight is None:
            return None
        weights[name] = weight
    head = head_of(module.embedding if module.output is None else module.output)
    if not head:
        return None
    alike = (("q", "k", "v"), ("gate", "up"))  # read the same inputs, rounded once
    for index in range(len(module.blocks)):
        for names in alike:
            if len({weights[f"{index}.{name}"].inputs for name in names}) > 1:
                return None
    return NativeDecoder(module, library, weights, head)


def _whole(tokens: int) -> int:
    """Rows of a buffer for so many tokens: from `FEW` on, tiles write whole groups of rows."""
    return tokens if tokens < FEW else -(-tokens // TILE_ROWS) * TILE_ROWS


def _codes(tokens: int, k: int) -> Tensor:
    """Work space for inputs as int8 or, with some room between tokens, bfloat16."""
    return torch.empty(_whole(tokens), k + TILE_ROWS, dtype=torch.int16)


def _pairs(tokens: int, k: int) -> Tensor:
    """Work space for inputs arranged for tiles."""
    return torch.empty(-(-tokens // PANEL) * PANEL, k, dtype=torch.bfloat16)


def _linear_layers(module: LanguageModel) -> list[tuple[str, nn.Module]]:
    layers: list[tuple[str, nn.Module]] = []
    for index, block in enumerate(module.blocks):
        mixer, ffn = cast(nn.Module, block.mixer), cast(nn.Module, block.ffn)
        parts = (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.o_proj, ffn.gate, ffn.up, ffn.down)
        layers += [(f"{index}.{name}", cast(nn.Module, part)) for name, part in zip(PRODUCTS, parts, strict=True)]
    return layers


def block_supported(block: object) -> bool:
    """Whether the kernels know a block's parts."""
    mixer, ffn = getattr(block, "mixer", None), getattr(block, "ffn", None)
    if not isinstance(mixer, AttentionConfig) or not isinstance(ffn, MLPConfig):
        return False
    if mixer.qk_norm is not None and not norm_supported(mixer.qk_norm):
        return False
    return mixer.head_dim % (2 * PANEL) == 0 and ffn.gated and ffn.activation == "silu"


def norm_supported(norm: NormConfig) -> bool:
    """Whether the kernels know a norm."""
    return norm.kind == "rms" and not norm.bias


def _attention_fits_tiles(layer: Layer) -> bool:
    """Whether `tile_attention.h` can compute a layer's attention: it reads 16 keys of a block at once."""
    shape = layer.shape
    return bool(layer.cache.bf16) and shape.block_size % PANEL == 0 and shape.head_dim <= TILE_WIDEST


def _runs(lengths: list[int], in_tiles: bool) -> Tensor:
    """(runs, 2) int32, first token and count: each row's new tokens in runs of 4, then 2, then 1; or in tiles of 16."""
    sizes = range(TILE_RUN, 0, -1) if in_tiles else (RUN, 2, 1)
    runs, at = [], 0
    for length in lengths:
        end = at + length
        while at < end:
            count = next(size for size in sizes if size <= end - at)
            runs.append((at, count))
            at += count
    return torch.tensor(runs, dtype=torch.int32)


def _aligned(rows: int, columns: int) -> Tensor:
    """(rows, columns) float32 that begin at a multiple of 64 bytes, as the kernels' vectors must."""
    whole = torch.empty(rows * columns + PANEL)
    skip = -whole.data_ptr() % 64 // 4
    return whole[skip : skip + rows * columns].view(rows, columns)
