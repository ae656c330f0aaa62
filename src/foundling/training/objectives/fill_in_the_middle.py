"""Fill-in-the-middle: learn to write what belongs between two pieces, without unlearning to write on."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from foundling.core.rng import numpy_rng
from foundling.training.batch import Batch
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.windows import Numbers

SENTINELS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


class FillInTheMiddle(Causal):
    """Causal on windows of which a share is cut at two random places and reordered (Bavarian et al. 2022).

    PSM: <prefix> a <suffix> c <middle> b. SPM: <prefix> <suffix> c <middle> a b, which can reuse a cached a.

    Args:
        sentinels: ids of the three tokens.
        rate: share of the rows that are reordered; half of them PSM, half SPM.
    """

    def __init__(
        self,
        split: TokenSplit,
        context: int,
        batch_size: int,
        seed: int,
        *,
        sentinels: tuple[int, int, int],
        rate: float = 0.5,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(split, context, batch_size, seed, z_loss=z_loss)
        self.sentinels, self.rate = sentinels, rate

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The causal batch with some rows reordered; a row keeps its length, so its last three tokens make room."""
        batch = super().batch(step)
        rng = numpy_rng(self.seed, "fill-in-the-middle", step)
        rows = torch.cat([batch.tokens, batch.targets[:, -1:]], 1).numpy()
        for row in np.flatnonzero(rng.random(self.batch_size) < self.rate):
            first, second = np.sort(rng.integers(0, self.context - 1, size=2))
            rows[row] = self._reorder(rows[row, : self.context - 2], first, second, suffix_first=rng.random() < 0.5)
        tokens = torch.from_numpy(rows)
        batch.tokens, batch.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return batch

    def _reorder(self, text: Numbers, first: int, second: int, *, suffix_first: bool) -> Numbers:
        before, middle, after = text[:first], text[first:second], text[second:]
        p, s, m = ([sentinel] for sentinel in self.sentinels)
        parts = (p, s, after, m, before, middle) if suffix_first else (p, before, s, after, m, middle)
        return np.concatenate(parts).astype(np.int64)
