"""Averages of weights: a running one while training, and of several finished models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from foundling.core.errors import FoundlingError
from foundling.training.world import local


class RunningAverage:
    """Exponential moving average of the trained weights (Polyak & Juditsky 1992), in fp32.

    Args:
        decay: the share of the old average that a step keeps; early steps keep less, (1 + n) / (10 + n), so that the
            first weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages, weights = ([local(t) for t in d.values()] for d in (self.averages, self.weights))
        torch._foreach_lerp_(averages, weights, 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs, the module has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights and the averages."""
        for name, weight in self.weights.items():
            kept = weight.detach().clone()
            weight.copy_(self.averages[name])
            self.averages[name] = kept


def average_files(files: Sequence[Path], out: Path) -> None:
    """The mean of several weight files of one model (Wortsman et al. 2022, model soups; LAWA), tensor by tensor.

    Raises:
        FoundlingError: the files do not hold the same tensors.
    """
    handles = [safe_open(file, framework="pt") for file in files]
    names = sorted(handles[0].keys())
    for file, handle in zip(files, handles, strict=True):
        if sorted(handle.keys()) != names:
            raise FoundlingError(
                f"{file} does not hold the same tensors as {files[0]}", "only one model's can be averaged"
            )
    mean = {}
    for name in names:
        tensors = [handle.get_tensor(name) for handle in handles]
        mean[name] = torch.stack([t.float() for t in tensors]).mean(0).to(tensors[0].dtype)
    save_file(mean, out, metadata={"format": "pt"})
