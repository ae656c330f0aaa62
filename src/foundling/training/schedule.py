"""The learning rate over the steps, as a factor of its peak."""

from __future__ import annotations

import math

from foundling.training.config import TrainingConfig


def rate_factor(config: TrainingConfig, step: int) -> float:
    """The factor in (0, 1] for step 0 <= step < config.steps: a linear warm-up, then the schedule's shape.

    cosine: half a cosine down to `final_rate` (Loshchilov & Hutter 2017). wsd: constant, then a linear fall over the
    last `decay` of the steps (Hu et al. 2024, MiniCPM; Hägele et al. 2024). linear: a straight fall to `final_rate`.
    inverse_sqrt: √(warm-up / step) (Vaswani et al. 2017). constant: the peak.
    """
    warmup = round(config.warmup * config.steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / (step + 1)) if step >= max(warmup, 1) else 1.0
    length = config.steps - warmup
    if config.schedule == "wsd":
        length = min(length, max(1, round(config.decay * config.steps)))
    left = min(1.0, (config.steps - step) / length)  # 1 at the start of the fall, 1/length at the last step
    shape = 0.5 * (1 - math.cos(math.pi * left)) if config.schedule == "cosine" else left
    return config.final_rate + (1 - config.final_rate) * shape
