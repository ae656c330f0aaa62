"""Group relative policy optimisation: an answer is as good as it is better than the others to the same prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foundling.models.language_model import LanguageModel
from foundling.post_training.acting import plain_copy
from foundling.post_training.config import ReinforceConfig
from foundling.post_training.logprobs import batch_logprobs
from foundling.post_training.policy import clipped_policy_loss, group_advantages, kl_penalty, normalised_sum
from foundling.post_training.rollouts import Rollouts
from foundling.training.batch import Batch
from foundling.training.objective import LossSum


class GroupRelativePolicyOptimization:
    """GRPO (Shao et al. 2024, arXiv:2402.03300) with the corrections of Dr. GRPO and DAPO as options.

    Every rollout serves `updates` optimizer steps. Groups whose answers are all equally good teach nothing and weigh
    nothing.

    Args:
        measure_kl: measure how far the model has moved from where it started, also where nothing pulls it back.
    """

    def __init__(
        self, module: LanguageModel, rollouts: Rollouts, config: ReinforceConfig, measure_kl: bool = False
    ) -> None:
        self.rollouts, self.config = rollouts, config
        self.reference = plain_copy(module, config.precision) if config.kl or measure_kl else None

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The rollout of this step with its advantages."""
        batch = self.rollouts.batch(step // self.config.updates)
        groups = batch.extra["reward"].view(-1, self.config.samples)
        advantages = group_advantages(groups, normalise_std=self.config.normalise_std).flatten()
        batch.extra["advantage"] = advantages
        return batch

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Clipped surrogate over the answers' tokens, divided as `normalise` says."""
        mask = batch.loss_mask
        count = float(mask.sum())
        logprobs = batch_logprobs(model, batch, self.config.temperature)
        # The engine reports log-probabilities at temperature 1. At another one there is a single update on a rollout,
        # where old and new are equal.
        old = batch.extra["logprobs"] if self.config.temperature == 1 else logprobs.detach()
        advantages = batch.extra["advantage"][:, None].expand_as(mask)
        losses = clipped_policy_loss(logprobs, old, advantages, self.config.clip_low, self.config.clip_high)
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {
            "reward": (batch.extra["reward"].sum(), batch.rows),
            "verified": (batch.extra["passed"].sum(), batch.rows),
            "mismatch": (((logprobs.detach() - old).abs() * mask).sum(), count),
            "answer_tokens": (count, batch.rows),
        }
        if self.reference is not None:
            with torch.no_grad():
                before = batch_logprobs(self.reference, batch, self.config.temperature)
            penalty = kl_penalty(logprobs, before)
            losses = losses + self.config.kl * penalty
            metrics["kl"] = ((penalty.detach() * mask).sum(), batch.rows)
        total, divisor = normalised_sum(losses, mask, self.config.normalise, self.config.max_tokens)
        return LossSum(total, max(divisor, 1.0), metrics)
