"""Which optimizer moves which weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from foundling.core.errors import FoundlingError
from foundling.training.config import TrainingConfig
from foundling.training.optimizers.muon import Muon
from foundling.training.width import OUTPUTS, reading_width, width_factor


class Optimizers:
    """The run's optimizers as one. Each parameter group keeps its peak rate; `set_rate` scales all by the schedule."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], names: dict[Tensor, str]) -> None:
        self.optimizers, self.names = optimizers, names
        self.peaks = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]

    def set_rate(self, factor: float) -> None:
        """Set every group's learning rate to `factor` times its peak."""
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def step(self) -> None:
        """Apply the gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Every state tensor by "parameter|state name", or the piece of it that this process holds."""
        return {
            f"{self.names[parameter]}|{key}": value
            for optimizer in self.optimizers
            for parameter, entries in optimizer.state.items()
            for key, value in entries.items()
        }

    def make_room(self, saved: dict[str, Tensor]) -> None:
        """Have the state tensors of a `state` that was saved, to be filled; those of a weight's shape lie as it does.

        Args:
            saved: by name, on the meta device; names of anything else are passed over.
        """
        owners = {self.names[p]: (o, p) for o in self.optimizers for g in o.param_groups for p in g["params"]}
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for name, value in saved.items():
            parameter_name, _, key = name.rpartition("|")
            if parameter_name:
                optimizer, p = owners[parameter_name]
                alike = value.shape == p.shape
                room = torch.zeros_like(p) if alike else torch.zeros(value.shape, dtype=value.dtype, device=p.device)
                optimizer.state[p][key] = room.detach()


def build_optimizers(module: nn.Module, config: TrainingConfig) -> Optimizers:
    """Muon for the blocks' matrices and AdamW for the rest, or one of AdamW and SGD for all. Only matrices decay."""
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters() if p.requires_grad}
    if not names:
        raise FoundlingError("the model has no weights to train", "every parameter is frozen")
    hidden = hidden_matrices(module) if config.optimizer == "muon" else set()
    others = _Rates(module, config).groups([p for p in names if p not in hidden])
    optimizers: list[torch.optim.Optimizer] = []
    if hidden:
        optimizers.append(
            _muon(_by_layout([p for p in names if p in hidden], weight_decay=config.weight_decay), config)
        )
    if others and config.optimizer == "sgd":
        momentum = config.momentum
        optimizers.append(torch.optim.SGD(others, config.learning_rate, momentum, nesterov=momentum > 0))
    elif others:
        optimizers.append(_adamw(others, config))
    return Optimizers(optimizers, names)


class _Rates:
    """Rate and decay of the weights that AdamW or SGD moves, as the model's width asks for."""

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        factor = width_factor(module, config.base_width)
        self.rate, self.narrow_rate = config.learning_rate, config.learning_rate * factor
        self.reading_width = reading_width(module) if factor != 1.0 else set()
        self.decay = config.weight_decay if config.optimizer != "muon" else 0.0

    def groups(self, parameters: list[Tensor]) -> list[dict[str, Any]]:
        """One group for each rate, decay and layout."""
        kinds: dict[tuple[float, float], list[Tensor]] = {}
        for parameter in parameters:
            rate = self.narrow_rate if parameter in self.reading_width else self.rate
            kinds.setdefault((rate, self.decay if parameter.ndim >= 2 else 0.0), []).append(parameter)
        return [g for (rate, decay), same in kinds.items() for g in _by_layout(same, lr=rate, weight_decay=decay)]


def _by_layout(parameters: list[Tensor], **options: float) -> list[dict[str, Any]]:
    """One group for each layout over the processes: fused kernels take tensors of one layout."""
    layouts: dict[object, list[Tensor]] = {}
    for parameter in parameters:
        layout = (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
        layouts.setdefault(layout, []).append(parameter)
    return [{"params": group, **options} for group in layouts.values()]


def hidden_matrices(module: nn.Module) -> set[Tensor]:
    """The trained matrices between embedding and head: weights (out, in), or (experts, out, in), that Muon suits."""
    outside: set[Tensor] = set()
    for name, child in module.named_modules():
        if isinstance(child, nn.Embedding) or name.rpartition(".")[2] in OUTPUTS:
            outside.update(child.parameters(recurse=False))
    linear = {p for child in module.modules() if isinstance(child, nn.Linear) for p in child.parameters(recurse=False)}
    experts = {p for name, p in module.named_parameters() if p.ndim == 3 and "experts" in name}
    return {p for p in linear | experts if p.requires_grad and p.ndim >= 2 and p not in outside}


def _muon(groups: list[dict[str, Any]], config: TrainingConfig) -> Muon:
    dtype = torch.bfloat16 if config.precision != "fp32" else torch.float32
    return Muon(groups, config.matrix_learning_rate, config.momentum, dtype=dtype)


def _adamw(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused into one pass over memory."""
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=1e-10, weight_decay=0.0, fused=True)
