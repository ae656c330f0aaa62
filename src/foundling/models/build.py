"""A freshly initialised model: the same config and seed give the same weights, whatever the order of creation."""

from __future__ import annotations

import math

import torch
from torch import nn

from foundling.core.rng import torch_generator
from foundling.models.config import ModelConfig
from foundling.models.language_model import LanguageModel

EMBEDDING_STD = 0.02
OUTPUTS = ("o_proj", "down", "out_proj")  # the projections that write to the residual stream


def build(config: ModelConfig, seed: int, *, zero_outputs: bool = True) -> LanguageModel:
    """A model with random weights.

    Matrices are normal with standard deviation 1/sqrt(fan_in), embeddings with 0.02.

    Args:
        zero_outputs: start with the residual branches' last projections at zero, so that every block is the identity
            at first (Zhang et al. 2019, "Fixup"; GPT-style models train faster with it).
    """
    with torch.device("meta"):
        module = LanguageModel(config)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, part in module.named_modules():
            zero = zero_outputs and name.rpartition(".")[2] in OUTPUTS
            _initialise(part, torch_generator(seed, "init", name), zero)
    return module


def _initialise(part: nn.Module, generator: torch.Generator, zero: bool) -> None:
    if isinstance(part, nn.Linear):
        std = 0.0 if zero else 1 / math.sqrt(part.in_features)
        nn.init.normal_(part.weight, std=std, generator=generator)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    elif isinstance(part, nn.Embedding):
        nn.init.normal_(part.weight, std=EMBEDDING_STD, generator=generator)
    elif part._parameters:  # parts that own parameters know how to start them
        part.init_weights(generator)  # type: ignore[operator]
