"""Dropout on the residual branches, applied to any model from outside."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.layers.block import Block


def add_dropout(module: nn.Module, rate: float) -> None:
    """Drop a share of what every mixer and feed-forward adds to the residual stream (Srivastava et al. 2014).

    Only in training mode. The loop seeds it from (seed, step), so a resumed run drops the same.
    """
    for block in module.modules():
        if isinstance(block, Block):
            for branch in (block.mixer, block.cross, block.ffn):
                if branch is not None:
                    branch.register_forward_hook(partial(_drop, rate))


def _drop(rate: float, branch: nn.Module, _: object, output: Tensor) -> Tensor:
    return F.dropout(output, rate, branch.training)
