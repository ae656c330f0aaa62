"""Proximal policy optimisation: an answer's tokens are as good as they are better than a critic expected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foundling.models.language_model import LanguageModel
from foundling.post_training.acting import plain_copy
from foundling.post_training.config import ReinforceConfig
from foundling.post_training.logprobs import batch_logprobs, chosen_logprobs
from foundling.post_training.policy import (
    advantages_and_returns,
    clipped_policy_loss,
    clipped_value_loss,
    whitened,
)
from foundling.post_training.rollouts import Rollouts
from foundling.training.batch import Batch
from foundling.training.objective import LossSum


class ActorCritic(nn.Module):
    """A language model and a critic on its hidden states: the expected reward of the answer, at each token."""

    EXACT = ("score.weight", "score.bias")  # the critic works in fp32, whatever the model's precision

    def __init__(self, actor: LanguageModel) -> None:
        super().__init__()
        self.actor = actor
        self.score = nn.Linear(actor.config.dim, 1, device=actor.embedding.weight.device)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def logprobs_and_values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p(target) and V at the answers' tokens, 0 elsewhere: (rows, time) each, in one forward pass."""
        hidden = self.actor.hidden(batch.tokens)
        scored = batch.loss_mask.bool()
        found = chosen_logprobs(hidden[scored], batch.targets[scored], self.actor)
        values = self.score(hidden[scored].float()).squeeze(-1)
        empty = torch.zeros(batch.tokens.shape, dtype=torch.float32, device=found.device)
        return empty.masked_scatter(scored, found), empty.masked_scatter(scored, values.float())


class ProximalPolicyOptimization:
    """PPO (Schulman et al. 2017, arXiv:1707.06347) as Ouyang et al. 2022 (arXiv:2203.02155) use it.

    The reward of an answer is given at its last token; every token pays `kl` · (log π − log π₀), so that the model
    stays near where it started. Every rollout serves `updates` optimizer steps.
    """

    def __init__(self, model: ActorCritic, rollouts: Rollouts, config: ReinforceConfig) -> None:
        self.rollouts, self.config = rollouts, config
        self.reference = plain_copy(model.actor, config.precision)

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The rollout of this step, with the advantages and returns that the critic gave it when it was fresh."""
        assert isinstance(model, ActorCritic)
        batch = self.rollouts.batch(step // self.config.updates)
        if "advantage" in batch.extra:
            return batch
        batch = batch.to(model.score.weight.device)
        mask = batch.loss_mask
        with torch.no_grad():
            before = batch_logprobs(self.reference, batch)
            _, values = model.logprobs_and_values(batch)
        per_token = -self.config.kl * (batch.extra["logprobs"] - before) * mask
        last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)
        rewards = per_token + last * batch.extra["reward"][:, None]
        advantages, returns = advantages_and_returns(rewards, values, mask, self.config.discount, self.config.trace)
        batch.extra |= {
            "advantage": whitened(advantages, mask),
            "returns": returns,
            "values": values,
            "reference": before,
        }
        self.rollouts.keep(step // self.config.updates, batch)
        return batch

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Clipped surrogate and clipped critic's error, over the answers' tokens; the count is their number."""
        mask, extra = batch.loss_mask, batch.extra
        count = float(mask.sum())
        logprobs, values = model.logprobs_and_values(batch)
        policy = clipped_policy_loss(
            logprobs, extra["logprobs"], extra["advantage"], self.config.clip_low, self.config.clip_high
        )
        critic = clipped_value_loss(values, extra["values"], extra["returns"], self.config.value_clip)
        total = ((policy + self.config.value_weight * critic) * mask).sum()
        moved = ((logprobs.detach() - extra["reference"]) * mask).sum()
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {
            "reward": (extra["reward"].sum(), batch.rows),
            "verified": (extra["passed"].sum(), batch.rows),
            "mismatch": (((logprobs.detach() - extra["logprobs"]).abs() * mask).sum(), count),
            "critic_error": ((critic.detach() * mask).sum(), count),
            "kl": (moved, batch.rows),
            "answer_tokens": (count, batch.rows),
        }
        return LossSum(total, max(count, 1.0), metrics)
