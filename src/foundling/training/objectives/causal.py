"""Next-token prediction on packed windows of a token stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.order import Permutation
from foundling.training.token_files import TokenSplit


class Causal:
    """Predict every token from those before it.

    The stream is cut into windows of `context` tokens, which are visited in random order; every epoch cuts at another
    offset and draws another order. Batch n is computed directly from (seed, n), so a resumed run needs no state.

    Args:
        split: the documents.
        context: tokens in a row.
        batch_size: rows in a step.
        document_mask: attend only within a document; else a row is one sequence and end-of-text separates documents.
        z_loss: weight of log²Z, which keeps logits from drifting (PaLM, Chowdhery et al. 2022, §5).
    """

    def __init__(
        self,
        split: TokenSplit,
        context: int,
        batch_size: int,
        seed: int,
        *,
        document_mask: bool = False,
        z_loss: float = 0.0,
    ) -> None:
        if len(split.stream) < 2 * context + 1:
            what = f"the {split.name} split holds {len(split.stream)} tokens, too few for a context of {context}"
            raise FoundlingError(what, f"at least {2 * context + 1} are needed", "Use more text or a smaller context")
        self.split, self.context, self.batch_size, self.seed = split, context, batch_size, seed
        self.document_mask, self.z_loss = document_mask, z_loss
        self.windows = (len(split.stream) - 1 - context) // context  # leaves room for an offset below one window

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Rows number step·batch_size ... of the endless sequence of epochs."""
        starts = self.starts(np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64))
        rows = torch.from_numpy(np.stack([self.split.window(int(start), self.context + 1) for start in starts]))
        return Batch(
            tokens=rows[:, :-1].contiguous(),
            targets=rows[:, 1:].contiguous(),
            loss_mask=torch.ones(self.batch_size, self.context),
            segments=self._segments(starts) if self.document_mask else None,
            sources=[self.split.name_of(int(start), self.context) for start in starts],
        )

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy in nats; the count is the number of targets."""
        return next_token_loss(model, batch, z_loss=self.z_loss)

    def starts(self, numbers: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """(n,) row numbers -> (n,) offsets of their windows in the stream."""
        out = np.empty_like(numbers)
        for epoch in np.unique(numbers // self.windows):
            chosen = numbers // self.windows == epoch
            offset = seed_for(self.seed, "offset", epoch) % self.context
            order = Permutation(self.windows, self.seed, "order", epoch)
            out[chosen] = order[numbers[chosen] % self.windows] * self.context + offset
        return out

    def _segments(self, starts: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        documents = np.stack([self.split.documents_at(int(start), self.context) for start in starts])
        return torch.from_numpy(documents - documents[:, :1])
