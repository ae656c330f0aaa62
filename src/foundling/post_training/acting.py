"""Copies of the model that is trained, for what needs no gradients: the answers it gives, and the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.core.rng import torch_generator
from foundling.models.adapters import LoRALinear, adapter_layers
from foundling.models.language_model import LanguageModel
from foundling.training.config import Precision
from foundling.training.precision import exact_parameters


def acting(module: LanguageModel, precision: Precision) -> LanguageModel:
    """What generates: the module itself, or a copy where that is faster and as near to what training computes."""
    return module if precision == "fp32" and not adapter_layers(module) else plain_copy(module, precision)


def plain_copy(module: LanguageModel, precision: Precision) -> LanguageModel:
    """The model in plain layers, any adapter merged, in evaluation mode, with weights at the precision of training.

    Generation takes many small steps, and reads the weights in each: half as many bytes, and no layer beside another.
    """
    with torch.device("meta"):
        copy = LanguageModel(module.config)
    exact = exact_parameters(copy)
    for name, parameter in copy.named_parameters():
        dtype = torch.bfloat16 if precision != "fp32" and name not in exact else torch.float32
        parameter.data = parameter.data.to(dtype)
    copy.to_empty(device=next(module.parameters()).device).requires_grad_(False).eval()
    refresh(copy, module)
    return copy


@torch.no_grad()
def refresh(copy: LanguageModel, module: LanguageModel) -> None:
    """Give a `plain_copy` the module's present weights."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    layers = adapter_layers(module)
    for name, value in (*copy.named_parameters(), *copy.named_buffers()):
        path, _, kind = name.rpartition(".")
        if path not in layers:
            value.copy_(own[name])
        elif kind == "weight":
            _merge_into(value, layers[path])
        else:
            value.copy_(own[f"{path}.base.{kind}"])


def _merge_into(value: Tensor, layer: LoRALinear) -> None:
    """The merged weight, rounded to bfloat16 up or down by chance: to the nearest, a small update would be lost.

    Most published weights are bfloat16 numbers, and what an adapter adds to them is often less than half the distance
    to the next. The chance is fixed, so that a resumed run rounds in the same way.
    """
    weight = layer.merged_weight().float()
    if value.dtype == torch.bfloat16:
        chance = torch.randint(1 << 16, weight.shape[1:], dtype=torch.int32, generator=torch_generator(0, "rounding"))
        weight = (weight.view(torch.int32) + chance.to(weight.device)).bitwise_and_(-(1 << 16)).view(torch.float32)
    value.copy_(weight)
