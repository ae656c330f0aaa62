"""What a training method is: a batch for every step, and a summed loss with what it must be divided by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from foundling.training.batch import Batch

Metric = tuple[float | Tensor, float | Tensor]  # sum, count


@dataclass
class LossSum:
    """A loss that has been summed, not averaged, so that parts of a batch add up exactly.

    Args:
        total: float32 scalar to differentiate: the sum over everything scored in this part of the batch.
        count: what the sum over all parts and processes is divided by (scored tokens, pairs, ...).
        metrics: other numbers to log by name, each as (sum, count) over this part.
    """

    total: Tensor
    count: float | Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)


class Objective(Protocol):
    """A training method on the one loop."""

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The whole batch of a step: a pure function of the seed, `step` and, for on-policy methods, the weights."""
        ...

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The summed loss of some rows. Must treat rows independently, or the count must say what it depends on."""
        ...
