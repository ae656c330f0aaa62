"""Mixture of experts: a router chooses a few feed-forwards for each token (Shazeer et al. 2017, arXiv:1701.06538)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.config import MLPConfig, MoEConfig
from foundling.models.context import Context
from foundling.models.layers.mlp import ACTIVATIONS, MLP
from foundling.models.routing import Routing

GRAIN = 64  # choices of an expert in training: a CPU's library keeps a compiled product for every shape


class MoE(nn.Module):
    """Sum over the chosen experts of weight * expert(x), plus a shared expert.

    Dropless: every choice is served. With a capacity (training only, so that a request's answer does not depend on its
    neighbours) choices beyond it add nothing. Each pass appends its `Routing` to the context.
    """

    correction_bias: Tensor | None

    def __init__(self, config: MoEConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.router = Router(config, dim)
        self.experts = Experts(config, dim)
        bias = torch.zeros(config.n_experts) if config.correction_bias else None
        self.register_buffer("correction_bias", bias)
        self.shared: MLP | None = None
        if config.shared_hidden:
            self.shared = MLP(MLPConfig(hidden=config.shared_hidden, activation=config.activation), dim)

    def init_weights(self, generator: torch.Generator) -> None:
        """No correction at first."""
        if self.correction_bias is not None:
            nn.init.zeros_(self.correction_bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        tokens = x.flatten(0, 1)
        logits = self.router(tokens)
        scores = logits.softmax(-1) if self.config.scores == "softmax" else logits.sigmoid()
        weights, chosen = self._choose(scores)
        kept = self._within_capacity(chosen)
        ctx.routing.append(self._observed(logits, scores, chosen, kept, ctx))
        if kept is not None:
            weights = weights * kept
        out = self.experts(tokens, chosen, weights).view_as(x)
        return out if self.shared is None else out + self.shared(x, ctx)

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (tokens, top_k) and experts (tokens, top_k) of scores (tokens, n_experts)."""
        config = self.config
        ranked = scores if self.correction_bias is None else scores + self.correction_bias
        if config.n_groups is not None:
            ranked = self._in_best_groups(ranked)
        chosen = ranked.topk(config.top_k, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if config.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * config.scale, chosen

    def _in_best_groups(self, ranked: Tensor) -> Tensor:
        """Block the experts outside each token's best groups; a group is as good as its best expert (DeepSeek-V2), or
        with a correction bias as its best two (DeepSeek-V3).
        """
        config = self.config
        assert config.n_groups is not None and config.top_groups is not None
        grouped = ranked.unflatten(-1, (config.n_groups, -1))
        quality = grouped.topk(2 if config.correction_bias else 1, dim=-1).values.sum(-1)
        best = torch.zeros_like(quality, dtype=torch.bool).scatter(-1, quality.topk(config.top_groups).indices, True)
        return grouped.masked_fill(~best.unsqueeze(-1), -torch.inf).flatten(-2)

    def _within_capacity(self, chosen: Tensor) -> Tensor | None:
        """Which choices (tokens, top_k) are among the first `capacity` of their expert; None: all."""
        factor = self.config.capacity_factor
        if factor is None or not self.training:
            return None
        capacity = math.ceil(factor * chosen.numel() / self.config.n_experts)
        taken = F.one_hot(chosen.flatten(), self.config.n_experts)
        place = (taken.cumsum(0) * taken).sum(-1)  # 1 for an expert's first choice
        return (place <= capacity).view_as(chosen)

    def _observed(self, logits: Tensor, scores: Tensor, chosen: Tensor, kept: Tensor | None, ctx: Context) -> Routing:
        real = torch.ones_like(chosen[:, 0], dtype=torch.bool)
        if ctx.segments is not None:
            real = ctx.segments.flatten() != -1
        n_real = real.sum().clamp_min(1)
        counts = torch.zeros(self.config.n_experts, device=logits.device)
        counts = counts.index_add(0, chosen.flatten(), real.float().repeat_interleave(chosen.shape[1]))
        shares = scores / scores.sum(-1, keepdim=True)
        dropped = (~kept & real[:, None]).sum() if kept is not None else counts.new_zeros(())
        z = (torch.logsumexp(logits, -1).square() * real).sum() / n_real
        return Routing(counts, (shares * real[:, None]).sum(0) / n_real, z, dropped, self.config)


class Router(nn.Module):
    """Logits of the experts, in float32 whatever the model's precision: near ties decide who computes."""

    def __init__(self, config: MoEConfig, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_experts, dim))

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal with 1/sqrt(fan_in)."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x (tokens, dim) -> (tokens, n_experts) float32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float())


class Experts(nn.Module):
    """All experts' gated feed-forwards, each weight one tensor (n_experts, out, in)."""

    def __init__(self, config: MoEConfig, dim: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gate = nn.Parameter(torch.empty(config.n_experts, config.hidden, dim))
        self.up = nn.Parameter(torch.empty(config.n_experts, config.hidden, dim))
        self.down = nn.Parameter(torch.empty(config.n_experts, dim, config.hidden))

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal with 1/sqrt(fan_in), as of a linear layer."""
        for weight in (self.gate, self.up, self.down):
            nn.init.normal_(weight, std=weight.shape[2] ** -0.5, generator=generator)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x (tokens, dim), chosen and weights (tokens, top_k) -> (tokens, dim). One product per expert that is used."""
        order = chosen.flatten().argsort(stable=True)  # choices, expert by expert
        loads = torch.bincount(chosen.flatten(), minlength=self.gate.shape[0]).tolist()
        count, shares = len(x), weights.flatten()
        if x.device.type == "cpu" and torch.is_grad_enabled():  # one more token, of zeros, which has the spare choices
            order, loads = _whole_tiles(order, loads, chosen.numel())
            x, shares = torch.cat((x, x.new_zeros(1, x.shape[1]))), torch.cat((shares, shares.new_zeros(1)))
        token = order // chosen.shape[1]
        parts = x[token].split(loads)
        outputs = [self._expert(e, part) for e, part in enumerate(parts) if part.shape[0]]
        scaled = torch.cat(outputs) * shares[order].unsqueeze(1).to(x.dtype)
        return torch.zeros_like(x, dtype=scaled.dtype).index_add(0, token, scaled)[:count]

    def _expert(self, e: int, x: Tensor) -> Tensor:
        hidden = self.activation(F.linear(x, self.gate[e])) * F.linear(x, self.up[e])
        return F.linear(hidden, self.down[e])


def _whole_tiles(order: Tensor, loads: list[int], spare: int) -> tuple[Tensor, list[int]]:
    """Each expert's choices, followed by `spare` up to a multiple of GRAIN; and how many they are now."""
    missing = [-load % GRAIN for load in loads]
    parts = [
        part for own, n in zip(order.split(loads), missing, strict=True) for part in (own, own.new_full((n,), spare))
    ]
    return torch.cat(parts), [load + n for load, n in zip(loads, missing, strict=True)]
