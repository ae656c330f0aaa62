"""Paged keys and values: one pool of blocks per layer, shared by all sequences (Kwon et al. 2023, arXiv:2309.06180)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from foundling.models.context import CacheView


class PagedKV:
    """Keys and values of one layer, (blocks, block_size, kv_heads, head_dim) each. Block 0 takes the padding."""

    def __init__(
        self, blocks: int, block_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        shape = (blocks, block_size, kv_heads, head_dim)
        # zeros, not empty: a masked NaN would still poison the weighted sum of values
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def write(self, cache: CacheView, keys: Tensor, values: Tensor) -> None:
        """Store the new tokens' keys and values (rows, time, kv_heads, head_dim) in their slots."""
        slots = cache.write_slots.flatten()
        for pool, new in ((self.keys, keys), (self.values, values)):
            pool.flatten(0, 1).index_copy_(0, slots, new.flatten(0, 1).to(pool.dtype))

    def read(self, cache: CacheView) -> tuple[Tensor, Tensor]:
        """Everything in each row's blocks, (rows, max_blocks * block_size, kv_heads, head_dim), in position order."""
        return _gather(self.keys, cache.block_table), _gather(self.values, cache.block_table)


class PagedLatent:
    """One vector per token and layer, (blocks, block_size, width): multi-head latent attention's cache."""

    def __init__(
        self, blocks: int, block_size: int, width: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.latents = torch.zeros(blocks, block_size, width, dtype=dtype, device=device)

    def write(self, cache: CacheView, latents: Tensor) -> None:
        """Store the new tokens' vectors (rows, time, width) in their slots."""
        slots = cache.write_slots.flatten()
        self.latents.flatten(0, 1).index_copy_(0, slots, latents.flatten(0, 1).to(self.latents.dtype))

    def read(self, cache: CacheView) -> Tensor:
        """Everything in each row's blocks, (rows, max_blocks * block_size, width), in position order."""
        return _gather(self.latents, cache.block_table)


def _gather(pool: Tensor, table: Tensor) -> Tensor:
    # index_select copies whole blocks; indexing with the table goes value by value and takes five times as long
    blocks = pool.flatten(1).index_select(0, table.flatten())
    return blocks.view(table.shape[0], -1, *pool.shape[2:])


def is_recurrent(state: Iterable[object]) -> bool:
    """Whether some layer keeps one state a sequence, which cannot be shared block by block or taken back."""
    return any(not isinstance(layer, (PagedKV, PagedLatent)) for layer in state)
