"""The processes of a run, and what they must agree on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from foundling.core.errors import FoundlingError
from foundling.training.batch import Batch
from foundling.training.config import TrainingConfig
from foundling.training.meeting import join


class World:
    """All processes, as a mesh of replicas × shards × tensor slices; one process that is alone has no mesh.

    Processes that differ only in their tensor slice work on the same rows; all others on different rows.

    Raises:
        FoundlingError: the mesh does not divide the processes that `torchrun` started.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.rank = join()
        self.size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.shards = config.shard or self.size // config.tensor
        self.slices = config.tensor
        if self.shards < 1 or self.size % (self.shards * self.slices):
            what = (
                f"a mesh of {self.shards} shards and {self.slices} tensor slices does not divide {self.size} processes"
            )
            raise FoundlingError(what, "shard · tensor must be a divisor of the processes", "Change shard or tensor")
        self.replicas = self.size // (self.shards * self.slices)
        self.mesh: DeviceMesh | None = None
        self.group: dist.ProcessGroup | None = None  # all, for what goes to files beside the training; None if alone
        self.partial: list[Tensor] = []  # weights of which each tensor slice has only a part of the gradient
        if self.size > 1:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            shape, names = (self.replicas, self.shards, self.slices), ("replica", "shard", "tensor")
            self.mesh = init_device_mesh(device, shape, mesh_dim_names=names)
            self.group = dist.new_group(backend="gloo")

    @property
    def data_size(self) -> int:
        """How many parts a batch is divided into."""
        return self.replicas * self.shards

    @property
    def data_rank(self) -> int:
        """Which part is this process's."""
        return self.rank // self.slices

    def share(self, batch: Batch) -> Batch:
        """This process's rows of the whole batch."""
        if batch.rows % self.data_size:
            what = f"a batch of {batch.rows} rows cannot be divided among {self.data_size} processes"
            raise FoundlingError(what, fix=f"Use a batch size that is a multiple of {self.data_size}")
        rows = batch.rows // self.data_size
        return batch.slice(self.data_rank * rows, (self.data_rank + 1) * rows)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over the parts of the batch."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) / self.slices for value in tensor]

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Add up the gradients of the replicas in place, in one message. FSDP2 adds up those of the shards itself."""
        if self.mesh is None:
            return
        for weight in self.partial:
            if weight.grad is not None:
                dist.all_reduce(local(weight.grad), group=self.mesh.get_group("tensor"))
        if self.replicas == 1 or self.shards > 1:
            return
        parts = [local(g) for g in gradients]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat, group=self.mesh.get_group("replica"))
        for part, total in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))

    def gradient_norm(self, gradients: Sequence[Tensor]) -> float:
        """The Euclidean norm over all gradients, wherever their parts lie."""
        norms = torch.stack(torch._foreach_norm([local(g) for g in gradients])).double()
        if self.size == 1:
            return float(norms.square().sum().sqrt())
        pieces = torch.tensor([_pieces(g) for g in gradients], dtype=torch.float64, device=norms.device)
        total = (norms.square() * pieces / self.size).sum()  # each piece lies on size / pieces processes
        dist.all_reduce(total)
        return float(total.sqrt())

    def agree(self, flag: bool) -> bool:
        """True for all if it is true for any."""
        return flag if self.size == 1 else self.sum([float(flag)])[0] > 0


def _pieces(tensor: Tensor) -> int:
    if not isinstance(tensor, DTensor):
        return 1
    sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    # Not is_shard(): the strided pieces of a weight that is both sliced and sharded do not say yes to it.
    return math.prod(size for size, placement in sizes if not placement.is_replicate())


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a distributed tensor; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A distributed tensor put together; every process must call it. Any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, laid out as another one; without communication."""
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def laid_out(piece: Tensor, like: Tensor) -> Tensor:
    """This process's piece as the distributed tensor that is laid out as another one."""
    if not isinstance(like, DTensor):
        return piece
    return DTensor.from_local(piece, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
