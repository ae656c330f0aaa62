"""What people look at to trust a run: how far each group of weights moves in a step, and how large it is."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from foundling.training.world import local

NUMBER = re.compile(r"\.\d+\.")


def group_of(name: str) -> str:
    """ "blocks.3.mixer.q_proj.weight" -> "blocks.mixer.q_proj": the same part of every block is one group."""
    return NUMBER.sub(".", name).removesuffix(".weight")


class Movement:
    """Measures one optimizer step: `before()`, step, `after()`."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._before: dict[str, Tensor] = {}

    def before(self) -> None:
        """Remember the weights."""
        self._before = {name: local(p.detach()).clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def after(self) -> dict[str, dict[str, float]]:
        """By group: `update_ratio` |Δw| / |w| (about 1e-3 is usual for AdamW) and `rms` of the weights."""
        moved: dict[str, float] = {}
        length: dict[str, float] = {}
        count: dict[str, int] = {}
        for name, weight in self.weights.items():
            group, now = group_of(name), local(weight.detach())
            moved[group] = moved.get(group, 0.0) + float((now - self._before[name]).square().sum())
            length[group] = length.get(group, 0.0) + float(now.square().sum())
            count[group] = count.get(group, 0) + now.numel()
        self._before = {}
        return {
            "update_ratio": {g: (moved[g] / max(length[g], 1e-24)) ** 0.5 for g in moved},
            "rms": {g: (length[g] / max(count[g], 1)) ** 0.5 for g in moved},
        }
