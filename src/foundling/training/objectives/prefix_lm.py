"""Prefix language modelling: the first part of a row is seen both ways, the rest is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from foundling.core.rng import numpy_rng
from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.objectives.causal import Causal


class PrefixLM(Causal):
    """Causal, but a random prefix sees itself both ways and is not scored (Raffel et al. 2020, §3.2.1)."""

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Windows with prefixes of 1 to context - 1 tokens."""
        batch = super().batch(step)
        prefix = numpy_rng(self.seed, "prefix", step).integers(1, self.context, size=self.batch_size)
        positions = np.arange(self.context)
        # The last token of the prefix predicts the first token after it.
        batch.loss_mask = torch.from_numpy((positions >= prefix[:, None] - 1).astype(np.float32))
        batch.extra["prefix"] = torch.from_numpy(prefix)
        return batch

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy of what follows the prefixes."""
        return next_token_loss(model, batch, z_loss=self.z_loss)
