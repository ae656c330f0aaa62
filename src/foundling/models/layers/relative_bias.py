"""T5's relative position bias (Raffel et al. 2020, arXiv:1910.10683, section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foundling.models.config import RelativeBiasConfig


class RelativeBias(nn.Embedding):
    """A learned number per head and bucket of distance: exact for near tokens, logarithmic up to `max_distance`."""

    def __init__(self, config: RelativeBiasConfig, n_heads: int, causal: bool) -> None:
        super().__init__(config.buckets, n_heads)
        self.config, self.causal = config, causal

    def bias(self, query: Tensor, key: Tensor) -> Tensor:
        """Positions that broadcast to (..., time, keys) -> (rows or 1, heads, time, keys)."""
        buckets = self._bucket(query - key)
        if buckets.dim() == 2:
            return self(buckets).permute(2, 0, 1).unsqueeze(0)
        return self(buckets[:, 0]).permute(0, 3, 1, 2)  # (rows, 1, time, keys): each row has its own positions

    def _bucket(self, distance: Tensor) -> Tensor:
        count = self.config.buckets
        offset: Tensor | int = 0
        if self.causal:
            distance = distance.clamp_min(0)
        else:  # half of the buckets for what follows
            count //= 2
            offset, distance = (distance < 0) * count, distance.abs()
        exact = count // 2
        scale = (count - exact) / math.log(self.config.max_distance / exact)
        far = exact + (torch.log(distance.clamp_min(1).float() / exact) * scale).long()
        return offset + torch.where(distance < exact, distance, far.clamp_max(count - 1))
