"""Keys and values in 8 bits: half the cache of bf16, a quarter of fp32, at the price of rounding to 1/127 of a head."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.models.context import CacheView
from foundling.models.layers.paged import PagedKV


class Int8KV(PagedKV):
    """A layer's paged cache as int8 codes, with one scale for each token and head.

    Reading gives float32: codes * scale. The largest value of a head is exact; the others are off by at most half a
    step, |x|_max / 254.
    """

    def __init__(self, like: PagedKV) -> None:
        blocks, block_size, kv_heads, head_dim = like.keys.shape
        super().__init__(blocks, block_size, kv_heads, head_dim, torch.int8, like.keys.device)
        shape = (blocks, block_size, kv_heads, 1)
        self.key_scales = torch.zeros(shape, device=like.keys.device)
        self.value_scales = torch.zeros(shape, device=like.keys.device)

    @property
    def pools(self) -> tuple[Tensor, ...]:
        """Every tensor whose first dimension is the block."""
        return self.keys, self.values, self.key_scales, self.value_scales

    def write(self, cache: CacheView, keys: Tensor, values: Tensor) -> None:
        """Round and store the new tokens' keys and values (rows, time, kv_heads, head_dim)."""
        slots = cache.write_slots.flatten()
        for codes, scales, new in ((self.keys, self.key_scales, keys), (self.values, self.value_scales, values)):
            flat = new.flatten(0, 1).float()
            scale = flat.abs().amax(-1, keepdim=True) / 127
            rounded = (flat / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
            codes.flatten(0, 1).index_copy_(0, slots, rounded)
            scales.flatten(0, 1).index_copy_(0, slots, scale)

    def read(self, cache: CacheView) -> tuple[Tensor, Tensor]:
        """Everything in each row's blocks, (rows, max_blocks * block_size, kv_heads, head_dim) float32."""
        keys, values, key_scales, value_scales = (_gather(pool, cache.block_table) for pool in self.pools)
        return keys * key_scales, values * value_scales


def _gather(pool: Tensor, table: Tensor) -> Tensor:
    blocks = pool.flatten(1).index_select(0, table.flatten())
    return blocks.view(table.shape[0], -1, *pool.shape[2:])
