"""Masked diffusion: learn to restore text at every degree of masking, so that it can be written in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from foundling.core.rng import numpy_rng
from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.token_files import TokenSplit
from foundling.training.windows import Windows

LEAST = 1e-3  # smallest share masked, which bounds the weight 1/t


class MaskedDiffusion:
    """Absorbing-state diffusion over tokens (Sahoo et al. 2024, MDLM; Nie et al. 2025, LLaDA).

    A row's share t is uniform in (0, 1], each of its tokens is masked with probability t, and the masked ones are
    scored with weight 1/t: the expectation is an upper bound of the negative log-likelihood of the row.

    Args:
        mask_id: id of the mask token, which the model must never predict with certainty it has seen: it is no target.
    """

    def __init__(self, split: TokenSplit, context: int, batch_size: int, seed: int, *, mask_id: int) -> None:
        self.windows = Windows(split, context, seed)
        self.context, self.batch_size, self.seed, self.mask_id = context, batch_size, seed, mask_id

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Windows masked to evenly spread degrees (antithetic sampling lowers the variance)."""
        starts = self.windows.of_step(step, self.batch_size)
        targets = self.windows.read(starts, self.context)
        rng = numpy_rng(self.seed, "diffusion", step)
        share = (rng.random() + np.arange(self.batch_size)) / self.batch_size % 1.0
        share = (LEAST + (1 - LEAST) * share)[:, None]  # (rows, 1)
        masked = rng.random(targets.shape) < share
        return Batch(
            tokens=torch.from_numpy(np.where(masked, self.mask_id, targets)),
            targets=torch.from_numpy(targets),
            loss_mask=torch.from_numpy((masked / share).astype(np.float32)),
            sources=self.windows.names(starts),
        )

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The bound in nats, summed; the count is all tokens, masked or not. The model must see both ways."""
        return LossSum(next_token_loss(model, batch).total, float(batch.tokens.numel()))
