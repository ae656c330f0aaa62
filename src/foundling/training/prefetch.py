"""Making the next batch while the current one is trained on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from foundling.training.batch import Batch
from foundling.training.objective import LossSum, Objective


class Prefetched:
    """An objective whose batches do not depend on the weights, read one step ahead in a thread.

    Any batch can still be asked for: one that was not expected is made at once. On a GPU the batch waits in pinned
    memory, from which copies overlap with computing.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._ahead: tuple[int, Future[Batch]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The objective's batch of that step."""
        ahead, self._ahead = self._ahead, None
        batch = ahead[1].result() if ahead is not None and ahead[0] == step else self._make(step)
        self._ahead = (step + 1, self._thread.submit(self._make, step + 1))
        return batch

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The objective's loss."""
        return self.objective.loss(model, batch)

    def _make(self, step: int) -> Batch:
        batch = self.objective.batch(step)
        return batch.pinned() if torch.cuda.is_available() else batch
