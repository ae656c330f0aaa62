"""What people look at to trust a run: how far each group of weights moves in a step, and how large everything is."""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn

from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.models.layers.block import Block
from foundling.training.batch import Batch
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


@torch.no_grad()
def scales(module: nn.Module, batch: Batch) -> dict[str, Any]:
    """How large the activations and the logits are on the batch's first row.

    `activations`: the root mean square of each block's output, in order. `logits`: theirs, and the largest. Other
    modules than language models have neither.
    """
    if not isinstance(module, LanguageModel) or module.config.head.kind not in ("lm", "mlm"):
        return {}
    seen: dict[str, float] = {}
    handles = [
        block.register_forward_hook(lambda _, __, x, name=name: seen.update({name: _rms(x)}))
        for name, block in module.named_modules()
        if isinstance(block, Block)
    ]
    row = batch.slice(0, 1)
    ctx = Context.packed(row.segments) if row.segments is not None else None
    logits = module.head(cast(Any, module).hidden(row.tokens, ctx))
    for handle in handles:
        handle.remove()
    return {"activations": seen, "logits": {"rms": _rms(logits), "largest": float(logits.abs().max())}}


def _rms(x: Tensor) -> float:
    return float(x.float().square().mean().sqrt())
