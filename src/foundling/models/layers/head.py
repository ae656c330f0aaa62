"""Output heads other than the plain matrix to the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundling.models.config import ModelConfig
from foundling.models.layers.mlp import ACTIVATIONS
from foundling.models.layers.norm import Norm


class MaskedHead(nn.Module):
    """norm(act(dense(h))), before the logits (BERT, arXiv:1810.04805)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.dim, config.dim, config.head.dense_bias)
        self.norm = Norm(config.dim, config.norm)
        self.activation = ACTIVATIONS[config.head.activation]

    def forward(self, h: Tensor) -> Tensor:
        """h (..., dim) -> (..., dim)."""
        out: Tensor = self.norm(self.activation(self.dense(h)))
        return out


class LogitBias(nn.Module):
    """A bias of its own, for heads whose matrix is the embedding's."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(vocab_size))

    def init_weights(self, generator: torch.Generator) -> None:
        """Zero."""
        nn.init.zeros_(self.bias)
