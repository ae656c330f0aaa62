"""What the routers of a forward pass did: losses to add, statistics to read, and balancing without a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundling.models.config import MoEConfig
from foundling.models.context import Context


@dataclass
class Routing:
    """One mixture-of-experts layer's routing of one pass. Padding is not counted."""

    counts: Tensor  # (n_experts,) float32: choices of each expert
    probabilities: Tensor  # (n_experts,) float32: mean share of the router's scores; carries gradients
    log_sum_exp_squared: Tensor  # scalar: mean squared log-sum-exp of the router's logits; carries gradients
    dropped: Tensor  # scalar: choices beyond an expert's capacity
    config: MoEConfig

    def balance_loss(self) -> Tensor:
        """n_experts * sum of (share of choices * mean probability): top_k when balanced (arXiv:2101.03961, eq. 4-6)."""
        share = self.counts * self.config.top_k / self.counts.sum().clamp_min(1)
        return self.config.n_experts * (share * self.probabilities).sum()

    def auxiliary_loss(self) -> Tensor:
        """The weighted balance and z losses (arXiv:2202.08906, eq. 5)."""
        return self.config.balance_weight * self.balance_loss() + self.config.z_weight * self.log_sum_exp_squared


def auxiliary_loss(ctx: Context) -> Tensor | None:
    """What a training step adds to its mean loss: the mean over the pass's layers; None if nothing was routed."""
    if not ctx.routing:
        return None
    return torch.stack([routing.auxiliary_loss() for routing in ctx.routing]).mean()


def statistics(ctx: Context) -> dict[str, float]:
    """Means over the pass's layers, for the training log.

    `imbalance` is the busiest expert's load over the mean load (1 is perfect), `idle` the share of experts without a
    token, `entropy` that of the loads over its maximum, `dropped` the share of choices beyond capacity.
    """
    if not ctx.routing:
        return {}
    rows = []
    for routing in ctx.routing:
        load = routing.counts / routing.counts.sum().clamp_min(1)
        entropy = torch.special.entr(load).sum() / torch.log(torch.tensor(float(load.numel())))
        dropped = routing.dropped / routing.counts.sum().clamp_min(1)
        rows.append(torch.stack((load.max() * load.numel(), (load == 0).float().mean(), entropy, dropped)))
    names = ("imbalance", "idle", "entropy", "dropped")
    return dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True))


@torch.no_grad()
def update_correction_biases(module: nn.Module, ctx: Context, rate: float = 1e-3) -> None:
    """After a step: raise the bias of experts below the mean load, lower it above (arXiv:2408.15664, algorithm 1)."""
    layers = [part for part in module.modules() if isinstance(getattr(part, "config", None), MoEConfig)]
    for layer, routing in zip(layers, ctx.routing, strict=True):
        if routing.config.correction_bias:
            bias = layer.correction_bias
            assert isinstance(bias, Tensor)
            bias += rate * torch.sign(routing.counts.mean() - routing.counts)
