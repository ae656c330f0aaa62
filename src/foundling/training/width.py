"""Learning rates that carry over from a narrow model to a wide one (muP).

Yang et al. 2022, "Tensor Programs V", table 3, for Adam: the step of a matrix whose inputs are as many as the model is
wide must shrink as 1/width, or what it adds to its output grows with the width; embeddings and vectors keep their
rate. Muon's steps have a fixed spectral norm, which already does not depend on the width (Bernstein & Newhouse 2024).
The head's first logits shrink with the width as well. Head widths and depth are taken to be the same.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from foundling.core.errors import FoundlingError

OUTPUTS = ("output", "lm_head", "score")


def width_factor(module: nn.Module, base_width: int) -> float:
    """How much smaller than at `base_width` the rates of `reading_width` must be; 1 where nothing was asked for.

    Raises:
        FoundlingError: the head is tied to the embedding, which must not shrink.
    """
    if not base_width:
        return 1.0
    model = cast(Any, module)
    if model.output is None:
        why = "an embedding keeps its size at every width and a head must shrink with it: one matrix cannot do both"
        raise FoundlingError(f"base_width {base_width}: this model's head is its embedding", why, "Set untie")
    return base_width / int(model.config.dim)


def reading_width(module: nn.Module) -> set[Tensor]:
    """The matrices whose inputs are as many as the model is wide: the hidden ones and the head."""
    embeddings: set[Tensor] = {
        p for child in module.modules() if isinstance(child, nn.Embedding) for p in child.parameters()
    }
    return {p for p in module.parameters() if p.ndim >= 2 and p not in embeddings}


@torch.no_grad()
def scale_head(module: nn.Module, base_width: int) -> None:
    """Start the head with a standard deviation that falls as 1/width instead of 1/√width. Raises as `width_factor`."""
    factor = width_factor(module, base_width)
    if base_width:
        cast(Any, module).output.weight.mul_(factor**0.5)
