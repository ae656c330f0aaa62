"""GRPO's loss and gradients, with its Dr. GRPO and DAPO normalisations, against trl's, on the same sampled answers."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from foundling.post_training.policy import clipped_policy_loss, group_advantages, kl_penalty, normalised_sum

ROWS, TIME, MOST = 6, 9, 12


@pytest.fixture
def case() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 4, 7, 1, 9, 5])
    mask = (torch.arange(TIME) < lengths[:, None]).float()
    logprobs = -3 * torch.rand(ROWS, TIME, generator=generator)
    old = logprobs + 0.4 * torch.randn(ROWS, TIME, generator=generator)
    reference = logprobs + 0.3 * torch.randn(ROWS, TIME, generator=generator)
    return {"mask": mask, "logprobs": logprobs, "old": old, "reference": reference,
            "advantages": torch.randn(ROWS, generator=generator)}  # fmt: skip


def _theirs(case: dict[str, Tensor], loss_type: str, beta: float) -> tuple[float, Tensor]:
    from trl import GRPOTrainer

    logprobs = case["logprobs"].clone().requires_grad_()
    arguments = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    metrics: Any = {"train": defaultdict(list)}
    accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x,
                                  reduce=lambda x, reduction: x)  # fmt: skip
    self = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",  # noqa: E501
        beta=beta, args=arguments, loss_type=loss_type, epsilon_low=0.2, epsilon_high=0.28, use_vllm=False,
        vllm_importance_sampling_correction=False, model=SimpleNamespace(training=True), accelerator=accelerator,
        current_gradient_accumulation_steps=1, max_completion_length=MOST, _metrics=metrics, _entropy_bonus_enabled=False,  # noqa: E501
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.int64), "prompt_mask": torch.ones(ROWS, 1),
        "completion_ids": torch.zeros(ROWS, TIME, dtype=torch.int64), "completion_mask": case["mask"],
        "advantages": case["advantages"], "old_per_token_logps": case["old"],
        "ref_per_token_logps": case["reference"], "num_items_in_batch": case["mask"].sum(),
    }  # fmt: skip
    loss = GRPOTrainer._compute_loss(self, None, inputs)
    loss.backward()
    assert logprobs.grad is not None
    return float(loss.detach()), logprobs.grad


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("ours", "theirs"), [("answers", "grpo"), ("constant", "dr_grpo"), ("tokens", "dapo")])
def test_policy_loss_equals_trl(case: dict[str, Tensor], ours: Any, theirs: str, beta: float) -> None:
    """Guards the sign, the two clips, the KL estimate and what each variant divides by."""
    logprobs = case["logprobs"].clone().requires_grad_()
    losses = clipped_policy_loss(logprobs, case["old"], case["advantages"][:, None].expand(ROWS, TIME), 0.2, 0.28)
    losses = losses + beta * kl_penalty(logprobs, case["reference"])
    total, count = normalised_sum(losses, case["mask"], ours, MOST)
    (total / count).backward()
    value, gradient = _theirs(case, theirs, beta)
    assert abs(float(total.detach()) / count - value) < 1e-5
    torch.testing.assert_close(logprobs.grad, gradient, atol=1e-6, rtol=1e-5)


def test_advantages_of_a_group() -> None:
    """Guards the group being a row, trl's 1e-4 beside the standard deviation, and all-equal groups weighing nothing."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    plain = group_advantages(rewards, normalise_std=False)
    assert plain.tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]
    scaled = group_advantages(rewards, normalise_std=True)
    expected = 0.5 / (rewards[0].std() + 1e-4)
    torch.testing.assert_close(scaled[0], torch.tensor([1.0, -1, -1, 1]) * expected)
