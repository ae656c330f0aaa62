"""A forward pass over many tokens at once, for stacks of attention and gated feed-forward blocks on the CPU.

For float32, trees of tokens and whatever else `decoder.py` does not do: the matrix products are torch's; what is left
over, norms, rotations and activations, is more than half of the time in bfloat16. Here each of those is one native pass
over memory (`pointwise.c`), and padding goes through no product. The numbers are the module's own to within rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from foundling.models.config import AttentionConfig
from foundling.models.context import Context
from foundling.models.kernels.decoder import block_supported, norm_supported
from foundling.models.kernels.panels import PANEL
from foundling.models.kernels.structs import FLAGS, address
from foundling.models.language_model import Block, LanguageModel
from foundling.models.layers.attend import attend
from foundling.models.layers.masks import self_mask
from foundling.models.layers.norm import Norm
from foundling.models.layers.recurrent_native import library
from foundling.models.layers.rope import rope_tables

KeyValue = tuple[Tensor, Tensor]


class PackedForward:
    """Runs `module` on rows of tokens, valid ones packed together. Made by `packed`; weights are read in place."""

    def __init__(self, module: LanguageModel, library: ctypes.CDLL) -> None:
        self.module, self.library = module, library

    def hidden(
        self, tokens: Tensor, ctx: Context, valid: Tensor, outputs: Tensor, prefix: Sequence[KeyValue] = ()
    ) -> Tensor:
        """Final hidden states (n outputs, dim) of tokens (rows, time).

        Args:
            ctx: positions, and a tree over the rows' own tokens where they are not simply causal.
            valid: (rows, time) bool; the rest is padding and is computed in attention only.
            outputs: which of the valid tokens, counted in the order of rows, a result is wanted of.
            prefix: each layer's keys and values (1, prefix, kv_heads, head_dim) that all tokens see.
        """
        x = self._blocks(tokens, ctx, valid, outputs, prefix, None)
        return self._normed(self.module.norm, x)

    def keys_values(self, tokens: Tensor, ctx: Context) -> list[KeyValue]:
        """Each layer's keys and values (1, time, kv_heads, head_dim) of tokens (1, time)."""
        kept: list[KeyValue] = []
        self._blocks(tokens, ctx, torch.ones_like(tokens, dtype=torch.bool), tokens.new_empty(0), (), kept)
        return kept

    def _blocks(
        self,
        tokens: Tensor,
        ctx: Context,
        valid: Tensor,
        outputs: Tensor,
        prefix: Sequence[KeyValue],
        kept: list[KeyValue] | None,
    ) -> Tensor:
        where = valid.flatten().nonzero()[:, 0]
        x = self.module.embedding.weight.detach()[tokens.flatten()[where]]
        pack, last = _Pack(where, tokens.shape), len(self.module.blocks) - 1
        for index, block in enumerate(self.module.blocks):
            x, own = self._attention(cast(Block, block), x, ctx, prefix[index] if prefix else None, pack)
            x = self._feed_forward(cast(Block, block), x if index < last else x[outputs])
            if kept is not None:
                kept.append(own)
        return x

    def _attention(
        self, block: Block, x: Tensor, ctx: Context, prefix: KeyValue | None, pack: _Pack
    ) -> tuple[Tensor, KeyValue]:
        mixer, config = block.mixer, cast(AttentionConfig, block.mixer.config)
        h = self._normed(block.mixer_norm, x)
        q, k, v = (cast(nn.Linear, layer)(h) for layer in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        for part, heads, norm in ((q, config.n_heads, mixer.q_norm), (k, config.n_kv_heads, mixer.k_norm)):
            if norm is not None:
                self._norm_heads(cast(Norm, norm), part, config.head_dim)
            if config.rope is not None:
                table = pack.table(config, ctx)
                at = (part.data_ptr(), table.data_ptr(), part.shape[0], heads, config.head_dim, _half(part))
                self.library.rotate_rows(*at)
        q, k, v = (pack.padded(part).unflatten(-1, (-1, config.head_dim)) for part in (q, k, v))
        mask = self_mask(config, ctx, q.dtype)
        plain = prefix is None and mask is None
        out = attend(q, k, v, None) if plain else attend_stacked(q, k, v, mask, prefix)
        return _added(x, pack.packed(out.flatten(2)), cast(nn.Linear, mixer.o_proj)), (k, v)

    def _feed_forward(self, block: Block, x: Tensor) -> Tensor:
        ffn = cast(nn.Module, block.ffn)
        h = self._normed(block.ffn_norm, x)
        gate, up = cast(nn.Linear, ffn.gate)(h), cast(nn.Linear, ffn.up)(h)
        self.library.silu_product(gate.data_ptr(), up.data_ptr(), *gate.shape, _half(gate))
        return _added(x, gate, cast(nn.Linear, ffn.down))

    def _normed(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        scales, eps = _scales(norm)
        self.library.rms_norm_rows(x.data_ptr(), scales.data_ptr(), y.data_ptr(), *x.shape, eps, _half(x))
        return y

    def _norm_heads(self, norm: Norm, x: Tensor, width: int) -> None:
        scales, eps = _scales(norm)
        rows = x.numel() // width
        self.library.rms_norm_rows(x.data_ptr(), scales.data_ptr(), x.data_ptr(), rows, width, eps, _half(x))


def attend_stacked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, prefix: KeyValue | None) -> Tensor:
    """Attention of q (rows, time, heads, d) to each row's own k and v, and to a prefix that all tokens see.

    Query heads that share a key head are stacked along time: torch's kernel takes a few large products instead of many
    small ones (half the time for rows of 80 tokens), and no key is repeated. The prefix's part is one product for all
    rows: its keys are neither copied for each row nor masked. The two parts become one softmax by the sums of their
    exponentials, as flash attention's blocks do (Dao et al. 2022, arXiv:2205.14135).

    Args:
        mask: additive, over the rows' own keys, (rows or 1, 1, time, time); None is causal.
        prefix: keys and values (1, prefix, kv_heads, d).
    """
    rows, time, heads, width = q.shape
    kv_heads = k.shape[2]
    if mask is None:
        mask = q.new_full((1, 1, time, time), -torch.inf).triu_(1)
    stacked = q.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4).reshape(rows, kv_heads, -1, width)
    out, own_sum = _flash(stacked, k, v, mask.repeat(1, 1, heads // kv_heads, 1))
    if prefix is not None:
        far, far_sum = _flash(stacked.transpose(0, 1).reshape(1, kv_heads, -1, width), *prefix, None)
        far = far.view(kv_heads, rows, -1, width).transpose(0, 1)
        share = torch.sigmoid(far_sum.reshape(kv_heads, rows, -1).transpose(0, 1) - own_sum)[..., None]
        out = torch.lerp(out, far, share.to(out.dtype))
    return out.unflatten(2, (-1, time)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d) + mask) v, (rows, heads, time, d) like q; log-sum-exp of its logits, (rows, heads, time).

    k and v are (rows, keys, heads, d).
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, sums = flash(q, k.transpose(1, 2), v.transpose(1, 2), 0.0, False, attn_mask=mask)
    return out, sums


class _Pack:
    """Between packed tokens (n, width) and padded rows (rows, time, width)."""

    def __init__(self, where: Tensor, shape: torch.Size) -> None:
        self.where, self.rows, self.time = where, *shape
        self.whole = where.shape[0] == self.rows * self.time

    def padded(self, x: Tensor) -> Tensor:
        if self.whole:
            return x.view(self.rows, self.time, -1)
        out = x.new_zeros(self.rows * self.time, x.shape[1])
        return out.index_copy_(0, self.where, x).view(self.rows, self.time, -1)

    def packed(self, x: Tensor) -> Tensor:
        flat = x.reshape(self.rows * self.time, -1)
        return flat if self.whole else flat.index_select(0, self.where)

    def table(self, config: AttentionConfig, ctx: Context) -> Tensor:
        """(n, 2, head_dim) float32: cosines and signed sines of the valid tokens."""
        assert config.rope is not None

        def make() -> Tensor:
            cos, sin = rope_tables(config.rope, config.head_dim, ctx, torch.float32)  # type: ignore[arg-type]
            return torch.stack((cos.flatten(0, 2)[self.where], sin.flatten(0, 2)[self.where]), dim=1).contiguous()

        return ctx.once(("packed rope", config.rope, config.head_dim), make)


def packed(module: LanguageModel) -> PackedForward | None:
    """The module's packed forward pass, or None where its architecture, weights or this machine do not allow one."""
    first = module.embedding.weight
    fits = first.device.type == "cpu" and first.dtype in (torch.float32, torch.bfloat16)
    plain = all(parameter.dtype == first.dtype for parameter in module.parameters())
    if (
        type(module.embedding) is not nn.Embedding
        or not fits
        or not plain
        or not module.config.llama_shaped
        or not norm_supported(module.config.norm)
    ):
        return None
    if not all(map(block_supported, module.config.blocks)) or module.config.dim % PANEL:
        return None
    if any(block.ffn.hidden % PANEL for block in module.config.blocks if block.ffn is not None):  # type: ignore[union-attr]
        return None
    built = _compiled()
    return None if built is None else PackedForward(module, built)


@cache
def _compiled() -> ctypes.CDLL | None:
    source = "\n".join((Path(__file__).parent / n).read_text(encoding="utf-8") for n in ("vector.h", "pointwise.c"))
    built = library(source, (*FLAGS, "-fopenmp")) or library(source, FLAGS)
    if built is not None:
        built.rms_norm_rows.argtypes = [c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_float, c_int]
        built.rotate_rows.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int]
        built.silu_product.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_int]
        for function in (built.rms_norm_rows, built.rotate_rows, built.silu_product):
            function.restype = None
    return built


def _scales(norm: nn.Module | None) -> tuple[Tensor, float]:
    assert isinstance(norm, Norm)
    scales = norm.weight.detach().float() + (1.0 if norm.config.unit_offset else 0.0)
    return scales.contiguous(), norm.config.eps


def _added(x: Tensor, y: Tensor, layer: nn.Linear) -> Tensor:
    """x + layer(y); in one product where the layer is plain and not, for example, adapted."""
    bias: Tensor | None = layer.bias
    return x + layer(y) if type(layer) is not nn.Linear or bias is not None else torch.addmm(x, y, layer.weight.T)


def _half(x: Tensor) -> int:
    assert x.is_contiguous() and address(x) is not None
    return int(x.dtype == torch.bfloat16)
