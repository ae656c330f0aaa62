"""Softmax attention with shared key/value heads: in training form, over a paged cache, and to an encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundling.models.config import AttentionConfig
from foundling.models.context import Context
from foundling.models.kernels import fused
from foundling.models.layers.attend import attend
from foundling.models.layers.masks import cached_mask, cross_mask, key_ranges, self_mask
from foundling.models.layers.norm import Norm
from foundling.models.layers.paged import PagedKV
from foundling.models.layers.rope import rope_tables, rotate


class Attention(nn.Module):
    """softmax(q k^T / sqrt(head_dim)) v per head (Vaswani et al. 2017), heads grouped as in arXiv:2305.13245."""

    def __init__(self, config: AttentionConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(dim, q_dim, config.qkv_bias)
        self.k_proj = nn.Linear(dim, kv_dim, config.qkv_bias)
        self.v_proj = nn.Linear(dim, kv_dim, config.qkv_bias)
        self.o_proj = nn.Linear(q_dim, dim, config.out_bias)
        q_norm, k_norm = (config.head_dim,) * 2 if config.qk_norm_over == "head" else (q_dim, kv_dim)
        self.q_norm = Norm(q_norm, config.qk_norm) if config.qk_norm else None
        self.k_norm = Norm(k_norm, config.qk_norm) if config.qk_norm else None

    def forward(self, x: Tensor, ctx: Context, state: PagedKV | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim); with a state, the past is read from it and the new tokens kept."""
        config = self.config
        q, k, v = self._queries(x, ctx), self._keys(x, ctx), self._values(x)
        if state is None:
            if q.requires_grad and config.softcap is None and fused.suits_attention(q, k, v):
                ranges = key_ranges(config, ctx)
                if ranges is not None:
                    return self.o_proj(fused.attention(q, k, v, *ranges).flatten(2))
            mask = self_mask(config, ctx, q.dtype)
        else:
            assert ctx.cache is not None, "a state needs ctx.cache"
            state.write(ctx.cache, k, v)
            if nothing_cached(ctx):  # a prompt's first pass sees only itself: no need to gather from the cache
                mask = self_mask(config, ctx, q.dtype)
            else:
                k, v = (cached.to(q.dtype) for cached in state.read(ctx.cache))
                mask = cached_mask(config, ctx, k.shape[1], q.dtype)
        return self.o_proj(attend(q, k, v, mask, causal=config.causal, softcap=config.softcap, ctx=ctx).flatten(2))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> PagedKV:
        """An empty paged cache of this layer."""
        return PagedKV(blocks, block_size, self.config.n_kv_heads, self.config.head_dim, dtype, device)

    def _queries(self, x: Tensor, ctx: Context) -> Tensor:
        """(rows, time, dim) -> (rows, time, heads, head_dim)."""
        config = self.config
        q = self._positioned(self.q_proj(x), config.n_heads, self.q_norm, ctx)
        if config.scale is not None:  # `attend` divides by the square root of head_dim
            q = q * (config.scale * config.head_dim**0.5)
        return q

    def _keys(self, x: Tensor, ctx: Context) -> Tensor:
        return self._positioned(self.k_proj(x), self.config.n_kv_heads, self.k_norm, ctx)

    def _values(self, x: Tensor) -> Tensor:
        v: Tensor = self.v_proj(x)
        if self.config.clip_qkv is not None:
            v = v.clamp(-self.config.clip_qkv, self.config.clip_qkv)
        return v.unflatten(-1, (self.config.n_kv_heads, self.config.head_dim))

    def _positioned(self, x: Tensor, heads: int, norm: nn.Module | None, ctx: Context) -> Tensor:
        """Split into heads, norm and rotate."""
        config = self.config
        if norm is not None and config.qk_norm_over == "all":
            x = norm(x)
        if config.clip_qkv is not None:
            x = x.clamp(-config.clip_qkv, config.clip_qkv)
        x = x.unflatten(-1, (heads, config.head_dim))
        if norm is not None and config.qk_norm_over == "head":
            x = norm(x)
        if config.rope is not None:
            x = rotate(x, *rope_tables(config.rope, config.head_dim, ctx, x.dtype), config.rope.interleaved)
        return x


class CrossAttention(Attention):
    """Attention from the decoder's tokens to the encoder's output, whose keys and values are computed once."""

    def forward(self, x: Tensor, ctx: Context, state: PagedKV | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        encoded = ctx.encoded
        assert encoded is not None, "a decoder with cross attention needs ctx.encoded"
        keys, values = encoded.once(self, lambda: (self._keys(encoded.hidden, ctx), self._values(encoded.hidden)))
        q = self._queries(x, ctx)
        mask = cross_mask(ctx, encoded, q.dtype)
        return self.o_proj(attend(q, keys, values, mask, causal=False).flatten(2))


def nothing_cached(ctx: Context) -> bool:
    """Whether this is a pass over several tokens in which no row has a past."""
    assert ctx.cache is not None
    cache = ctx.cache
    return ctx.positions.shape[1] > 1 and ctx.once("nothing_cached", lambda: not bool(cache.lengths.any()))
