"""Muon: momentum whose matrices are replaced by their nearest semi-orthogonal ones.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale √(rows/cols) makes one learning
rate fit every shape and width (Bernstein & Newhouse 2024, "Old optimizer, new norm").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from foundling.models.kernels import muon as native
from foundling.training.world import laid_out, local, part_of, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration drives singular values towards 1
STEPS = 5


class Muon(torch.optim.Optimizer):
    """For the 2-D weights (out, in) of a network's hidden layers, and stacks of them (experts, out, in).

    A step may use up the gradients: afterwards they can hold something else. On a CPU a step in bf16 is native
    (`models/kernels/muon.py`).

    Args:
        lr: step size in spectral norm: an update has singular values near lr · √max(1, out/in).
        momentum: decay of the momentum; Nesterov's form.
        weight_decay: decoupled.
        dtype: of the orthogonalisation. bf16 is enough to train; fp32 makes runs that differ in rounding agree.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; matrices of one shape go through the iteration together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for parameters in shapes.values():
                self._step_same_shape(parameters, group)

    def _step_same_shape(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = [self._momentum(p) for p in parameters]
        rows, cols = parameters[0].shape[-2:]
        keep, rate = 1 - group["lr"] * group["weight_decay"], group["lr"] * max(1.0, rows / cols) ** 0.5
        if self.dtype == torch.bfloat16 and native.suits(*parameters, *gradients, *buffers):
            updates, norms = native.blend(gradients, buffers, 1 - group["momentum"])
            native.apply(parameters, _orthogonal_from(updates, norms), keep, rate)
            return
        pieces, gradients, momenta = ([local(x) for x in tensors] for tensors in (parameters, gradients, buffers))
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        torch._foreach_lerp_(gradients, momenta, group["momentum"])  # Nesterov's; the gradients are used up
        if keep != 1:
            torch._foreach_mul_(pieces, keep)
        torch._foreach_add_(pieces, self._orthogonal(gradients, buffers), alpha=-rate)

    def _orthogonal(self, pieces: list[Tensor], like: list[Tensor]) -> list[Tensor]:
        """Orthogonal updates of matrices laid out as `like`; distributed ones are put together on every process."""
        full = [whole(laid_out(piece, other)).to(self.dtype) for piece, other in zip(pieces, like, strict=True)]
        updates = orthogonalize(torch.stack(full)).to(like[0].dtype)
        return [local(part_of(update, other)) for update, other in zip(updates.unbind(), like, strict=True)]

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum"]
        return buffer


def orthogonalize(matrices: Tensor, steps: int = STEPS) -> Tensor:
    """(..., m, n) -> (..., m, n): about U Vᵀ of each matrix's singular value decomposition U S Vᵀ.

    A quintic Newton–Schulz iteration: singular values end within about [0.7, 1.2].
    """
    norms = matrices.float().norm(dim=(-2, -1), keepdim=True)
    return _iterate(matrices / (norms + 1e-7).to(matrices.dtype), steps)


def _orthogonal_from(matrices: Tensor, norms: Tensor) -> Tensor:
    """`orthogonalize` of bfloat16 matrices (count, rows, cols) of known norms, which are used up, on a CPU."""
    scales = 1 / (norms + 1e-7)
    if native.suits_tiles(matrices):
        native.orthogonalize_(matrices, scales, COEFFICIENTS, STEPS)
        return matrices
    return _iterate(matrices.mul_(scales[:, None, None]), STEPS).contiguous()


def _iterate(matrices: Tensor, steps: int) -> Tensor:
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.reshape(shape)
    return x.mT if tall else x
