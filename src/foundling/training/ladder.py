"""Which model and how many steps fit a time budget: a fixed ladder, measured once, scaled by the machine's rate.

No torch: the planner reads this too.
"""

from __future__ import annotations

from dataclasses import dataclass

from foundling.core.hardware import Rates
from foundling.models.presets import preset
from foundling.training.config import PretrainConfig

VOCAB_SIZE = 4096  # of the recipes that let us choose; it only enters the cost
MIN_STEPS, MAX_STEPS = 60, 20_000


@dataclass(frozen=True)
class Rung:
    """A size and the training it is worth.

    Args:
        utilisation: model FLOPs over the measured bf16 matrix rate, in training.
        tokens: fewest tokens at which it is better than the rung below.
    """

    preset: str
    utilisation: float
    tokens: int


LADDER = (
    Rung("foundling-1m", 0.30, 0),
    Rung("foundling-2m", 0.33, 1_500_000),
    Rung("foundling-3m", 0.35, 6_000_000),
    Rung("foundling-6m", 0.37, 16_000_000),
    Rung("foundling-12m", 0.40, 50_000_000),
    Rung("foundling-16m", 0.42, 100_000_000),
)


def choose_size(budget_s: float, rates: Rates) -> tuple[str, int]:
    """The largest rung that sees enough tokens within the budget, and its steps of the default batch.

    Args:
        budget_s: seconds for the training steps.
        rates: what the machine can do.
    """
    defaults = PretrainConfig()
    per_step = defaults.batch_size * defaults.context
    chosen = (LADDER[0].preset, MIN_STEPS)
    for rung in LADDER:
        model = preset(rung.preset, vocab_size=VOCAB_SIZE)
        flops = model.flops_per_token(defaults.context, training=True)
        tokens = budget_s * rates.bf16 * rung.utilisation / flops
        if tokens < rung.tokens:
            break
        chosen = (rung.preset, min(MAX_STEPS, max(MIN_STEPS, 10 * round(tokens / per_step / 10))))
    return chosen


def utilisation(name: str) -> float:
    """Model FLOPs over the measured bf16 matrix rate in training a preset; off the ladder, that of its top."""
    return next((rung.utilisation for rung in LADDER if rung.preset == name), LADDER[-1].utilisation)
