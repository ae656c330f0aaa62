"""Processes that train one model together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.training.batch import Batch


class World:
    """The processes of the run, as `torchrun` started them; alone if it did not."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    def share(self, batch: Batch) -> Batch:
        """This process's rows of the whole batch."""
        if self.size == 1:
            return batch
        if batch.rows % self.size:
            what = f"a batch of {batch.rows} rows cannot be divided among {self.size} processes"
            raise FoundlingError(what, fix=f"Use a batch size that is a multiple of {self.size}")
        rows = batch.rows // self.size
        return batch.slice(self.rank * rows, (self.rank + 1) * rows)

    def sum(self, values: list[float]) -> list[float]:
        """The sums of each value over all processes."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def same_weights(self, module: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.size > 1:
            for parameter in module.parameters():
                dist.broadcast(parameter.data, src=0)

    def agree(self, flag: bool) -> bool:
        """True for all if it is true for any."""
        return self.sum([float(flag)])[0] > 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm over all gradients."""
    norms = torch._foreach_norm(list(gradients))
    return torch.linalg.vector_norm(torch.stack(norms))
