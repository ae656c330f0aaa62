"""Finding learning rates by a short sweep in which they rise from step to step (Smith 2017, arXiv:1506.01186).

One factor for all peak rates is looked for, so that the proportions between groups stay as they are. Every step of the
sweep sees the same batch: the loss then moves by what the steps do and not by what the batches hold.
"""

from __future__ import annotations

import math

LOWEST, HIGHEST = 0.01, 10.0
SMOOTHING = 0.8  # of the losses, from step to step
MARGIN = 3.0  # the best factor is this far below that of the lowest loss, where the training is about to turn


def rising_factors(steps: int) -> list[float]:
    """`steps` factors from 1/100 to 10, evenly spaced in their logarithm."""
    return [LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1)) for step in range(steps)]


def smoothed(losses: list[float]) -> list[float]:
    """Exponential averages, corrected for their start."""
    out, mean = [], 0.0
    for number, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        out.append(mean / (1 - SMOOTHING**number))
    return out


def has_diverged(losses: list[float]) -> bool:
    """Whether the last loss is not a number, or so far above the lowest that the sweep is over."""
    return not math.isfinite(losses[-1]) or losses[-1] > min(losses) + 1.0 + 0.5 * abs(min(losses))


def best_factor(factors: list[float], losses: list[float]) -> float:
    """The factor of the lowest smoothed loss, less a margin; 1 if the sweep ended before it said anything."""
    if len(losses) < 5:
        return LOWEST
    curve = smoothed(losses)
    return factors[curve.index(min(curve))] / MARGIN
