"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): one small vector cached per token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundling.models.config import AttentionConfig, MLAConfig, NormConfig
from foundling.models.context import Context
from foundling.models.layers.attend import attend
from foundling.models.layers.attention import nothing_cached
from foundling.models.layers.masks import cached_mask, self_mask
from foundling.models.layers.norm import Norm
from foundling.models.layers.paged import PagedLatent
from foundling.models.layers.rope import rope_tables, rotate

LATENT_NORM = NormConfig(eps=1e-6)
VISIBILITY = AttentionConfig(n_heads=1, n_kv_heads=1, head_dim=1)  # plain causal attention


class MLA(nn.Module):
    """Keys and values expand from a normed latent of width kv_rank; one rotated key of width rope_dim serves all heads.

    While decoding, the expansion is moved to the other side of the products: queries are mapped into the latent's
    space, attention runs over the latents themselves, and its result is expanded to values.
    """

    def __init__(self, config: MLAConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        q_out = config.n_heads * (config.nope_dim + config.rope_dim)
        self.q_down = nn.Linear(dim, config.q_rank, config.bias) if config.q_rank else None
        self.q_norm = Norm(config.q_rank, LATENT_NORM) if config.q_rank else None
        self.q_up = nn.Linear(config.q_rank or dim, q_out, bias=False)
        self.kv_down = nn.Linear(dim, config.kv_rank + config.rope_dim, config.bias)
        self.kv_norm = Norm(config.kv_rank, LATENT_NORM)
        self.kv_up = nn.Linear(config.kv_rank, config.n_heads * (config.nope_dim + config.v_dim), bias=False)
        self.o_proj = nn.Linear(config.n_heads * config.v_dim, dim, config.bias)

    def forward(self, x: Tensor, ctx: Context, state: PagedLatent | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        q_nope, q_rope = self._queries(x, ctx)
        latent, k_rope = self._latents(x, ctx)
        if state is not None:
            assert ctx.cache is not None, "a state needs ctx.cache"
            state.write(ctx.cache, torch.cat((latent, k_rope.squeeze(2)), -1))
            if not nothing_cached(ctx):
                cached = state.read(ctx.cache).to(x.dtype)  # (rows, keys, kv_rank + rope_dim)
                return self._decode(q_nope, q_rope, cached, cached_mask(VISIBILITY, ctx, cached.shape[1], x.dtype))
        k_nope, v = self._expand(latent)
        k = torch.cat((k_nope, k_rope.expand(-1, -1, self.config.n_heads, -1)), -1)
        q = torch.cat((q_nope, q_rope), -1)
        return self.o_proj(attend(q, k, v, self_mask(VISIBILITY, ctx, q.dtype)).flatten(2))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> PagedLatent:
        """An empty paged cache of this layer."""
        return PagedLatent(blocks, block_size, self.config.kv_rank + self.config.rope_dim, dtype, device)

    def _queries(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        config = self.config
        if self.q_down is not None and self.q_norm is not None:
            x = self.q_norm(self.q_down(x))
        q = self.q_up(x).unflatten(-1, (config.n_heads, -1))
        width = config.nope_dim + config.rope_dim
        if config.scale is not None:  # `attend` divides by the square root of the width
            q = q * (config.scale * width**0.5)
        nope, rope = q.split((config.nope_dim, config.rope_dim), -1)
        return nope, self._rotated(rope, ctx)

    def _latents(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """The normed latent (rows, time, kv_rank) and the shared rotated key (rows, time, 1, rope_dim)."""
        latent, key = self.kv_down(x).split((self.config.kv_rank, self.config.rope_dim), -1)
        return self.kv_norm(latent), self._rotated(key.unsqueeze(2), ctx)

    def _rotated(self, x: Tensor, ctx: Context) -> Tensor:
        rope = self.config.rope
        return rotate(x, *rope_tables(rope, self.config.rope_dim, ctx, x.dtype), rope.interleaved)

    def _expand(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        k, v = self.kv_up(latent).unflatten(-1, (config.n_heads, -1)).split((config.nope_dim, config.v_dim), -1)
        return k, v

    def _decode(self, q_nope: Tensor, q_rope: Tensor, cached: Tensor, mask: Tensor) -> Tensor:
        """One key and value head for all: the latent, and beside it the rotated key."""
        config = self.config
        up = self.kv_up.weight.unflatten(0, (config.n_heads, -1))  # (heads, nope_dim + v_dim, kv_rank)
        to_key, to_value = up.split((config.nope_dim, config.v_dim), 1)
        q = torch.cat((torch.einsum("rthn,hnl->rthl", q_nope, to_key.to(q_nope.dtype)), q_rope), -1)
        # scores are over the expanded width, not the latent's
        q = q * ((config.kv_rank + config.rope_dim) / (config.nope_dim + config.rope_dim)) ** 0.5
        keys, latents = cached.unsqueeze(2), cached[..., : config.kv_rank].unsqueeze(2)
        mixed = attend(q, keys, latents, mask)  # (rows, time, heads, kv_rank)
        return self.o_proj(torch.einsum("rthl,hvl->rthv", mixed, to_value.to(mixed.dtype)).flatten(2))
