"""PPO's arithmetic against a float64 loop written out by hand, and its advantages in cases one can check by eye."""

from __future__ import annotations

import math

import torch

from foundling.post_training.policy import (
    advantages_and_returns,
    clipped_policy_loss,
    clipped_value_loss,
    whitened,
)

DISCOUNT, TRACE, LOW, HIGH, CLIP, WEIGHT = 0.97, 0.9, 0.2, 0.28, 0.2, 0.5
LENGTHS = (5, 1, 7, 3)


def test_one_update_equals_a_loop() -> None:
    """Guards GAE across ends of answers, whitening over tokens, both clips and the division, value and gradient."""
    generator = torch.Generator().manual_seed(1)
    shape, start = (len(LENGTHS), 9), 2  # answers begin after a prompt of two
    mask = torch.zeros(shape)
    for row, length in enumerate(LENGTHS):
        mask[row, start : start + length] = 1
    rewards, values, old = (torch.randn(shape, generator=generator) * mask for _ in range(3))
    logprobs = (old + 0.3 * torch.randn(shape, generator=generator)).requires_grad_()
    predicted = (values + 0.3 * torch.randn(shape, generator=generator)).requires_grad_()
    advantages, returns = advantages_and_returns(rewards, values, mask, DISCOUNT, TRACE)
    policy = clipped_policy_loss(logprobs, old, whitened(advantages, mask), LOW, HIGH)
    critic = clipped_value_loss(predicted, values, returns, CLIP)
    loss = ((policy + WEIGHT * critic) * mask).sum() / mask.sum()
    loss.backward()
    expected, slopes, value_slopes = _loop(rewards, values, old, logprobs.detach(), predicted.detach(), start)
    assert abs(float(loss.detach()) - expected) < 1e-5
    torch.testing.assert_close(logprobs.grad, slopes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predicted.grad, value_slopes, atol=1e-5, rtol=1e-5)


def _loop(rewards, values, old, logprobs, predicted, start):  # type: ignore[no-untyped-def]
    """The same in Python's doubles, token by token, with the gradients by hand."""
    cells = [(r, start + t) for r, n in enumerate(LENGTHS) for t in range(n)]
    advantage, returned = {}, {}
    for r, n in enumerate(LENGTHS):
        following = 0.0
        for t in reversed(range(start, start + n)):
            after = float(values[r, t + 1]) if t + 1 < start + n else 0.0
            delta = float(rewards[r, t]) + DISCOUNT * after - float(values[r, t])
            following = delta + DISCOUNT * TRACE * following
            advantage[r, t], returned[r, t] = following, following + float(values[r, t])
    mean = sum(advantage.values()) / len(cells)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in advantage.values()) / len(cells) + 1e-8)
    total, slopes, value_slopes = 0.0, torch.zeros(values.shape), torch.zeros(values.shape)
    for cell in cells:
        a = (advantage[cell] - mean) / deviation
        ratio = math.exp(float(logprobs[cell]) - float(old[cell]))
        clipped = min(max(ratio, 1 - LOW), 1 + HIGH)
        total -= min(ratio * a, clipped * a)
        slopes[cell] = -ratio * a / len(cells) if ratio * a <= clipped * a else 0.0
        v, v0, goal = float(predicted[cell]), float(values[cell]), returned[cell]
        near = v0 + min(max(v - v0, -CLIP), CLIP)
        total += WEIGHT * 0.5 * max((v - goal) ** 2, (near - goal) ** 2)
        inside = abs(v - v0) <= CLIP
        value_slopes[cell] = WEIGHT * (v - goal) / len(cells) if inside or (v - goal) ** 2 > (near - goal) ** 2 else 0.0
    return total / len(cells), slopes, value_slopes


def test_without_discount_every_token_gets_what_follows() -> None:
    """Guards the case one can check by eye: γ = λ = 1, no critic, a reward at the end."""
    rewards, mask = torch.zeros(1, 4), torch.tensor([[0.0, 1, 1, 0]])
    rewards[0, 2] = 1.0
    advantages, returns = advantages_and_returns(rewards, torch.zeros(1, 4), mask, 1.0, 1.0)
    assert advantages.tolist() == returns.tolist() == [[0, 1, 1, 0]]
