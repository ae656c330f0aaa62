"""Preference optimisation on the shared loop: groups of answers in, one loss of their log-probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foundling.core import progress
from foundling.post_training import preference
from foundling.post_training.config import PreferConfig
from foundling.post_training.group_packing import Group, pack_groups
from foundling.post_training.logprobs import batch_logprobs, sums_by_segment
from foundling.post_training.packing import Encoded
from foundling.post_training.preference import PairLogprobs
from foundling.training.batch import Batch
from foundling.training.objective import LossSum
from foundling.training.order import Permutation
from foundling.training.precision import LossAt

REFERENCE_FREE = ("simpo", "orpo")
_SCORING_GROUPS = 32


class PreferenceOptimization:
    """Any loss of `preference.py` on pairs. One row holds whole pairs, so parts of a batch add up exactly.

    Args:
        groups: (chosen, rejected) of every pair.
        reference: (pairs, 2) log-probabilities under the frozen reference, in nats.
    """

    def __init__(self, groups: Sequence[Group], reference: Tensor, config: PreferConfig, pad_id: int) -> None:
        self.groups, self.reference, self.config, self.pad_id = groups, reference, config, pad_id

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The pairs of a step, in the order of the epoch they fall into."""
        chosen = numbers_of(step, self.config.batch_size, len(self.groups), self.config.seed)
        extra = {"reference": self.reference[chosen]}
        return pack_groups([self.groups[i] for i in chosen], self.config.context, self.pad_id, extra)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over pairs; the count is their number. Logs the implicit reward's margin and accuracy."""
        present = batch.extra["present"].bool()  # (rows, slots)
        sums, tokens = answer_sums(model, batch, 2)
        reference = batch.extra["reference"][present]
        pairs = PairLogprobs(*sums[present].T, *reference.T, *tokens[present].T)
        losses = pair_losses(pairs, self.config)
        margin = self.config.beta * (pairs.chosen_ratio - pairs.rejected_ratio).detach()
        count = int(present.sum())
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {
            "margin": (margin.sum(), count),
            "accuracy": ((margin > 0).sum(), count),
            "chosen_logratio": (pairs.chosen_ratio.detach().sum(), count),
            "rejected_logratio": (pairs.rejected_ratio.detach().sum(), count),
        }
        return LossSum(losses.sum(), count, metrics)


class KahnemanTversky:
    """KTO on answers judged one by one. The baseline z is measured over the whole batch, before it is split.

    Args:
        groups: (answer, mismatched answer) of every row: the second is another row's answer to this row's prompt.
        desirable: (rows,) bool.
        reference: (rows, 2) log-probabilities under the frozen reference, in nats.
    """

    def __init__(
        self, groups: Sequence[Group], desirable: Tensor, reference: Tensor, config: PreferConfig, pad_id: int
    ) -> None:
        self.groups, self.desirable, self.reference = groups, desirable, reference
        self.config, self.pad_id = config, pad_id

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The answers of a step with z = max(0, mean log π/π₀ of mismatched answers) under the current weights."""
        assert model is not None
        chosen = numbers_of(step, self.config.batch_size, len(self.groups), self.config.seed)
        other = pack_groups([self.groups[i][1:] for i in chosen], self.config.context, self.pad_id)
        reference = self.reference[chosen, 1]
        with torch.no_grad():
            sums = answer_sums(model, other.to(next(model.parameters()).device), 1)[0].cpu()
        kl = ((sums[other.extra["present"].bool()].sum() - reference.sum()) / len(chosen)).clamp(min=0)
        extra = {
            "reference": self.reference[chosen, :1],
            "desirable": self.desirable[chosen],
            "kl": kl.expand(len(chosen)),
        }
        return pack_groups([self.groups[i][:1] for i in chosen], self.config.context, self.pad_id, extra)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over answers; the count is their number."""
        present = batch.extra["present"].bool()
        sums, _ = answer_sums(model, batch, 1)
        ratio = (sums - batch.extra["reference"])[present].squeeze(-1)
        desirable, kl = batch.extra["desirable"][present], batch.extra["kl"][present]
        weights = (self.config.desirable_weight, self.config.undesirable_weight)
        losses = preference.kto(ratio, desirable, kl, self.config.beta, weights)
        count = int(present.sum())
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {
            "kl": (kl.sum(), count),
            "desirable_logratio": (ratio.detach()[desirable].sum(), desirable.sum()),
            "undesirable_logratio": (ratio.detach()[~desirable].sum(), (~desirable).sum()),
        }
        return LossSum(losses.sum(), count, metrics)


def pair_losses(pairs: PairLogprobs, config: PreferConfig) -> Tensor:
    """The configured loss of each pair, (pairs,), with the chosen answer's cross entropy where it is asked for."""
    method, beta = config.method, config.beta
    if method == "dpo":
        losses = preference.dpo(pairs, beta)
    elif method == "cdpo":
        losses = preference.conservative_dpo(pairs, beta, config.flipped)
    elif method == "robust":
        losses = preference.robust_dpo(pairs, beta, config.flipped)
    elif method == "ipo":
        losses = preference.ipo(pairs, beta)
    elif method == "hinge":
        losses = preference.hinge(pairs, beta)
    elif method == "simpo":
        losses = preference.simpo(pairs, beta, config.gamma)
    else:
        assert method == "orpo", method
        losses = preference.odds_ratio(pairs, beta)
    return losses - config.sft_weight * pairs.chosen / pairs.chosen_tokens if config.sft_weight else losses


def answer_sums(model: Any, batch: Batch, per_group: int) -> tuple[Tensor, Tensor]:
    """Summed log-probability and number of tokens of each answer: (rows, slots, per_group) each."""
    assert batch.segments is not None
    slots = batch.extra["present"].shape[1]
    sums = sums_by_segment(batch_logprobs(model, batch), batch.segments, slots * per_group)
    tokens = sums_by_segment(batch.loss_mask.float(), batch.segments, slots * per_group)
    shape = (batch.rows, slots, per_group)
    return sums.view(shape), tokens.view(shape)


def numbers_of(step: int, size: int, total: int, seed: int) -> list[int]:
    """Which examples a step takes: the next `size` of an endless sequence of shuffled epochs."""
    places = range(step * size, (step + 1) * size)
    orders = {epoch: Permutation(total, seed, "preferences", epoch) for epoch in {place // total for place in places}}
    return [int(orders[place // total][np.array([place % total])][0]) for place in places]


def reference_logprobs(
    module: nn.Module, groups: Sequence[Group], config: PreferConfig, pad_id: int, saved: Path
) -> Tensor:
    """log π₀ of every answer of every group, (groups, per group), under the module as it is; kept in a file.

    Computed once, with the arithmetic of training, so that at the first step Δ is 0 to within rounding.
    """
    if saved.exists():
        return load_file(saved)["reference"]
    scorer = _Scorer(len(groups[0]))
    at = LossAt(module, scorer, config.precision)
    found, where = torch.zeros(len(groups), len(groups[0])), next(module.parameters()).device
    with torch.no_grad(), progress.task("reference log-probabilities", len(groups), "pairs") as bar:
        for start in range(0, len(groups), _SCORING_GROUPS):
            part = groups[start : start + _SCORING_GROUPS]
            numbers = {"number": torch.arange(start, start + len(part))}
            batch = pack_groups(part, config.context, pad_id, numbers)
            at.compute(batch.to(where))
            present = batch.extra["present"].bool()
            found[batch.extra["number"][present]] = scorer.found.cpu()[present]
            bar.advance(len(part))
    partial = saved.with_suffix(".tmp")
    save_file({"reference": found}, partial)
    partial.replace(saved)
    return found


class _Scorer:
    """An objective that only keeps the answers' log-probabilities."""

    def __init__(self, per_group: int) -> None:
        self.per_group = per_group
        self.found = torch.zeros(0)

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        raise AssertionError("it is given its batches")

    def loss(self, model: Any, batch: Batch) -> LossSum:
        self.found, _ = answer_sums(model, batch, self.per_group)
        return LossSum(self.found.sum(), 1)


def mismatched(answers: Sequence[tuple[Encoded, int]]) -> list[Group]:
    """KTO's groups: each answer, and the answer before it after its own prompt.

    Args:
        answers: encoded conversations with the length of their prompts.
    """
    groups: list[Group] = []
    for number, (own, start) in enumerate(answers):
        other, other_start = answers[number - 1]
        ids = [*own.ids[:start], *other.ids[other_start:]]
        mask = [False] * start + list(other.mask[other_start:])
        groups.append((own, Encoded(ids, mask, own.source)))
    return groups
