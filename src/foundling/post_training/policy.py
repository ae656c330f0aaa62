"""Policy-gradient losses: short functions of log-probabilities, each with its equation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, *, normalise_std: bool, epsilon: float = 1e-4) -> Tensor:
    """How much better each answer is than its group: A_ij = r_ij - mean_j(r_ij), optionally over (std_j + epsilon).

    GRPO (Shao et al. 2024, arXiv:2402.03300, eq. 3) divides by the group's standard deviation; Dr. GRPO (Liu et al.
    2025, arXiv:2503.20783) does not, which removes the weight on questions that are nearly always right or wrong.

    Args:
        rewards: (prompts, samples).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + epsilon) if normalise_std else centred


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """-min(ρ A, clip(ρ, 1 - clip_low, 1 + clip_high) A) for each token, with ρ = exp(logprobs - old_logprobs).

    PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7), with DAPO's two-sided clip
    (Yu et al. 2025, arXiv:2503.14476, eq. 10). All tensors have the same shape; summing is the caller's.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_penalty(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per token, the unbiased and positive estimate of KL(π || π_ref): exp(d) - d - 1 with d = log π_ref - log π.

    Schulman's "k3" estimator, as in GRPO (arXiv:2402.03300, eq. 4).
    """
    difference = reference_logprobs - logprobs
    return torch.exp(difference) - difference - 1


def normalised_sum(
    losses: Tensor, mask: Tensor, normalise: Literal["tokens", "answers", "constant"], most: int
) -> tuple[Tensor, float]:
    """The summed loss of some answers and the count to divide by; (answers, time) each.

    answers: the mean over answers of each one's mean over its tokens (GRPO, arXiv:2402.03300, eq. 3), in which the
    tokens of a long answer weigh less. tokens: the mean over all tokens (DAPO, arXiv:2503.14476, eq. 8). constant: the
    sum over tokens divided by the longest an answer may be, so that length has no say (Dr. GRPO, arXiv:2503.20783).

    Args:
        most: the longest answer, in tokens.
    """
    if normalise == "tokens":
        return (losses * mask).sum(), float(mask.sum())
    if normalise == "constant":
        return (losses * mask).sum(), float(mask.shape[0] * most)
    return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).sum(), float(mask.shape[0])


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, trace: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that the critic should predict; (answers, time) each.

    δ_t = r_t + γ V_{t+1} − V_t,  A_t = δ_t + γ λ A_{t+1},  R_t = A_t + V_t, with V = 0 after the last token.
    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation",
    arXiv:1506.02438, eq. 16.

    Args:
        rewards, values: of each token of an answer; what is outside the mask is ignored.
        mask: 1 on the answer's tokens, which are adjacent.
        discount, trace: γ and λ.
    """
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        inside = mask[:, t]
        delta = rewards[:, t] + discount * next_value - values[:, t]
        following = (delta + discount * trace * following) * inside
        advantages[:, t] = following
        next_value = values[:, t] * inside
    return advantages, (advantages + values) * mask


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """½ max((V − R)², (clip(V, V_old ± clip) − R)²) for each token: the critic moves no further than the actor may.

    As in PPO's reference implementation (Dhariwal et al. 2017, OpenAI Baselines); see Huang et al. 2022, "The 37
    implementation details of proximal policy optimization", detail 9.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Values with mean 0 and variance 1 over the mask, 0 outside (37 details, detail 7)."""
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    variance = (((values - mean) * mask) ** 2).sum() / count
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask
