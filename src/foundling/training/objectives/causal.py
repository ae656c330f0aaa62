"""Next-token prediction on packed windows of a token stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.token_files import TokenSplit
from foundling.training.windows import Numbers, Windows


class Causal:
    """Predict every token from those before it.

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
        self.windows = Windows(split, context, seed, extra=1)
        self.split, self.context, self.batch_size, self.seed = split, context, batch_size, seed
        self.document_mask, self.z_loss = document_mask, z_loss

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The windows of a step; targets are the inputs, one token later."""
        starts = self.windows.of_step(step, self.batch_size)
        rows = torch.from_numpy(self.windows.read(starts, self.context + 1))
        return Batch(
            tokens=rows[:, :-1].contiguous(),
            targets=rows[:, 1:].contiguous(),
            loss_mask=torch.ones(self.batch_size, self.context),
            segments=self._segments(starts) if self.document_mask else None,
            sources=self.windows.names(starts),
        )

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy in nats; the count is the number of targets."""
        return next_token_loss(model, batch, z_loss=self.z_loss)

    def _segments(self, starts: Numbers) -> Tensor:
        documents = np.stack([self.split.documents_at(int(start), self.context) for start in starts])
        return torch.from_numpy(documents - documents[:, :1])
