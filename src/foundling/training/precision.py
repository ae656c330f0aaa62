"""Forward and backward in bf16 on weights that stay fp32.

Autocast casts weights and activations at every operation. Here each forward pass gets a bf16 copy of the weights, made
once, and everything between runs in bf16; gradients arrive in fp32 at the fp32 weights, where they are summed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foundling.training.batch import Batch
from foundling.training.config import Precision
from foundling.training.objective import LossSum, Objective


class LossAt(nn.Module):
    """Computes an objective's loss with the module's weights at a precision. Frozen weights are cast only once.

    Args:
        sharded: the module is under FSDP2, which casts by itself.
    """

    def __init__(self, module: nn.Module, objective: Objective, precision: Precision, *, sharded: bool = False) -> None:
        super().__init__()
        self.module, self.objective = module, objective
        self.as_is = precision == "fp32" or sharded
        self._frozen: dict[str, Tensor] = {}
        self._exact = exact_parameters(module)
        if not self.as_is:
            named = module.named_parameters()
            self._frozen = {
                name: p.to(torch.bfloat16) for name, p in named if p.is_floating_point() and not p.requires_grad
            }

    def forward(self, batch: Batch) -> LossSum:
        """The objective's loss of some rows."""
        return self.objective.loss(self.module, batch)

    def compute(self, batch: Batch) -> LossSum:
        """`forward` at the precision; differentiable with respect to the module's own weights."""
        if self.as_is:
            result: LossSum = self(batch)
            return result
        named = self.module.named_parameters()
        trained = {n: p if n in self._exact else p.to(torch.bfloat16) for n, p in named if p.requires_grad}
        weights: dict[str, Any] = {f"module.{name}": value for name, value in (self._frozen | trained).items()}
        result = functional_call(self, weights, (batch,))
        return result


def exact_parameters(module: nn.Module) -> set[str]:
    """Parameters that their part wants in fp32 even so (a class attribute EXACT): decays, step sizes, frequencies."""
    parts = ((f"{name}." if name else "", part) for name, part in module.named_modules())
    return {prefix + name for prefix, part in parts for name in getattr(part, "EXACT", ())}
