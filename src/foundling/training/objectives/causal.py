"""Next-token prediction on rows of a token stream: windows of it, or whole documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.token_files import TokenSplit
from foundling.training.windows import Numbers, PackedDocuments, Windows


class Causal:
    """Predict every token from those before it.

    Args:
        split: the documents.
        context: tokens in a row.
        batch_size: rows in a step.
        best_fit: rows of whole documents with padding, instead of windows that cut a document at every row's end.
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
        best_fit: bool = False,
        document_mask: bool = False,
        z_loss: float = 0.0,
    ) -> None:
        self.windows = PackedDocuments(split, context, seed) if best_fit else Windows(split, context, seed, extra=1)
        self.split, self.context, self.batch_size, self.seed = split, context, batch_size, seed
        self.document_mask, self.z_loss = document_mask, z_loss

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The rows of a step; targets are what follows each token in its document, end-of-text after its last."""
        starts = self.windows.of_step(step, self.batch_size)
        positions = self.windows.positions(starts)
        return Batch(
            tokens=torch.from_numpy(self.split.at(positions)),
            targets=torch.from_numpy(self.split.at(np.where(positions < 0, -1, positions + 1))),
            loss_mask=torch.from_numpy((positions >= 0).astype(np.float32)),
            segments=self._segments(positions) if self.document_mask else None,
            sources=self.windows.names(starts),
        )

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy in nats; the count is the number of targets."""
        return next_token_loss(model, batch, z_loss=self.z_loss)

    def _segments(self, positions: Numbers) -> Tensor:
        documents = self.split.documents_of(positions)  # -1 is padding
        return torch.from_numpy(np.where(positions < 0, -1, documents - documents[:, :1]))
