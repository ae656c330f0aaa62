"""Masked language modelling: hide some tokens, predict them from both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foundling.core.rng import numpy_rng
from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.token_files import TokenSplit
from foundling.training.windows import Numbers, Windows

MASK = "<|mask|>"
KEPT, REPLACED = 0.1, 0.1  # of the chosen tokens: BERT's 80 % masked, 10 % random, 10 % unchanged


class Masked:
    """BERT's objective (Devlin et al. 2019, §3.1); 30 % as in ModernBERT (Warner et al. 2024) suits small models too.

    Args:
        mask_id: id of the mask token.
        rate: share of the tokens that are to be predicted.
        begins_word: (vocab,) which tokens begin a word: whole words are chosen then; None chooses single tokens.
    """

    def __init__(
        self,
        split: TokenSplit,
        context: int,
        batch_size: int,
        seed: int,
        *,
        mask_id: int,
        rate: float = 0.3,
        begins_word: NDArray[np.bool_] | None = None,
    ) -> None:
        self.windows = Windows(split, context, seed)
        self.split, self.context, self.batch_size, self.seed = split, context, batch_size, seed
        self.mask_id, self.rate, self.begins_word = mask_id, rate, begins_word

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Windows with tokens hidden; targets are the tokens themselves, at the same places."""
        starts = self.windows.of_step(step, self.batch_size)
        targets = self.windows.read(starts, self.context)
        rng = numpy_rng(self.seed, "masked", step)
        chosen = self._choose(targets, rng)
        how = rng.random(targets.shape)
        tokens = np.where(chosen & (how >= KEPT + REPLACED), self.mask_id, targets)
        random = rng.integers(0, self.split.vocab_size, size=targets.shape)
        tokens = np.where(chosen & (how < REPLACED), random, tokens)
        return Batch(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(targets),
            loss_mask=torch.from_numpy(chosen.astype(np.float32)),
            sources=self.windows.names(starts),
        )

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy of the chosen tokens; the count is their number. The model must see both ways."""
        return next_token_loss(model, batch)

    def _choose(self, tokens: Numbers, rng: np.random.Generator) -> NDArray[np.bool_]:
        chosen = rng.random(tokens.shape) < self.rate
        if self.begins_word is None:
            return chosen
        words = np.cumsum(self.begins_word[tokens], axis=1)  # number of the word each token is in
        return np.take_along_axis(chosen, words.clip(max=tokens.shape[1] - 1), axis=1)
