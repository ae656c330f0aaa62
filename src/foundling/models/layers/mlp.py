"""Feed-forward layer: plain or gated."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.config import Activation, MLPConfig
from foundling.models.context import Context
from foundling.models.kernels import fused

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class MLP(nn.Module):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x))."""

    def __init__(self, config: MLPConfig, dim: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gate = nn.Linear(dim, config.hidden, config.bias) if config.gated else None
        self.up = nn.Linear(dim, config.hidden, config.bias)
        self.down = nn.Linear(config.hidden, dim, config.bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        gate, up = self.gate(x), self.up(x)
        if self.activation is F.silu and up.requires_grad and up.numel() % fused.LANES == 0 and fused.suits(gate, up):
            return self.down(fused.silu_gate(gate, up))
        return self.down(self.activation(gate) * up)
