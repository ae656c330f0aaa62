"""How often each document is used: sources by weight, epochs or budget, languages by temperature, with a cap.

A curriculum is a mixture in phases: each phase is a part of the training steps with weights of its own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import numpy as np

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError, nearest
from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.words import mix


class Phase(Config):
    """A part of the training, with weights of its own."""

    share: float = option(help="part of the training steps, relative to the other phases", gt=0)
    weights: dict[str, float] = option({}, "group (a glob) -> its weight in this phase, times its general weight")
    temperature: float | None = option(None, "in place of the mixture's", ge=1)


class Mixture(Config):
    """Shares of the groups of a corpus. Groups are sources, or languages where documents name theirs."""

    by: str = option("source", "what makes a group: `source` or `language`", pattern="^(source|language)$")
    weights: dict[str, float] = option(
        {}, "group (a glob) -> its weight; unnamed groups keep their natural weight of 1"
    )
    epochs: dict[str, float] = option({}, "group (a glob) -> how often its documents are used, whatever its weight")
    temperature: float = option(
        1.0, "shares are proportional to size^(1/temperature): 1 natural, larger is more even", ge=1
    )
    budget_bytes: int | None = option(None, "size of the mixture; left out, that of the text there is", gt=0)
    budget_tokens: int | None = option(None, "the same in tokens of `bytes_per_token`", gt=0)
    bytes_per_token: float = option(4.0, "what a token is taken to hold", gt=0)
    max_epochs: float = option(4.0, "no document is used more often than this (Muennighoff et al. 2023)", gt=0)
    phases: tuple[Phase, ...] = option((), "a curriculum: parts of the training in order, each with its weights")


def plan(config: Mixture, sizes: Mapping[str, int]) -> list[dict[str, float]]:
    """For each phase (one, if there is no curriculum) group -> epochs, so that shares follow the weights and the
    temperature, under the cap, within the budget. A group at the cap gives what it cannot use to the others.

    Raises:
        FoundlingError: a glob names no group.
    """
    named = [*config.weights, *config.epochs, *(pattern for phase in config.phases for pattern in phase.weights)]
    for pattern in named:
        if not fnmatch.filter(sizes, pattern):
            what = f"mixture: no {config.by} is {pattern!r}"
            raise FoundlingError(what, f"there are: {', '.join(sorted(sizes))}", nearest(pattern, sizes))
    phases = config.phases or (Phase(share=1.0),)
    budget = config.budget_bytes or (config.budget_tokens or 0) * config.bytes_per_token or sum(sizes.values())
    left = dict.fromkeys(sizes, config.max_epochs)
    planned = []
    for phase in phases:
        part = phase.share / sum(other.share for other in phases)
        planned.append(_plan_phase(config, phase, sizes, budget * part, part, left))
        left = {group: left[group] - planned[-1].get(group, 0.0) for group in sizes}
    return planned


def _plan_phase(
    config: Mixture, phase: Phase, sizes: Mapping[str, int], budget: float, part: float, cap: Mapping[str, float]
) -> dict[str, float]:
    """Group -> epochs within one phase that has `part` of the training; `cap`: epochs that each group has left."""
    fixed = {g: min(epochs * part, cap[g]) for g in sizes if (epochs := _matching(config.epochs, g)) is not None}
    left = max(budget - sum(sizes[group] * epochs for group, epochs in fixed.items()), 0.0)
    power = 1 / (phase.temperature or config.temperature)
    wanted = {
        group: size**power
        * (_matching(config.weights, group, 1.0) or 0.0)
        * (_matching(phase.weights, group, 1.0) or 0.0)
        for group, size in sizes.items()
        if group not in fixed and size
    }
    planned = dict(fixed)
    while wanted:
        scale = left / (sum(wanted.values()) or 1.0)
        capped = [group for group in wanted if wanted[group] * scale > cap[group] * sizes[group]]
        if not capped:
            return planned | {group: wanted[group] * scale / sizes[group] for group in wanted}
        for group in capped:
            planned[group] = cap[group]
            left -= cap[group] * sizes[group]
            del wanted[group]
    return planned


def uses(group: Ints, ids: Hashes, epochs: Ints) -> Ints:
    """(documents, phases) how often each document is used in each phase.

    A document's uses up to a phase are the epochs up to it, rounded down or up by its id's hash; so phases that take
    a share of a group take different documents until it is used up.

    Args:
        group: (documents,) number of each document's group.
        epochs: (phases, groups) float64.
    """
    draw = mix(ids ^ np.uint64(0x6D6978)).astype(np.float64) / 2.0**64
    before = np.zeros(len(group), np.int64)
    columns = []
    for so_far in np.cumsum(epochs, axis=0):
        wanted = so_far[group]
        now = np.floor(wanted).astype(np.int64) + (draw < wanted % 1)
        columns.append(np.maximum(now - before, 0))
        before = now
    return np.stack(columns, axis=1)


def _matching(table: Mapping[str, float], group: str, default: float | None = None) -> float | None:
    return next((value for pattern, value in table.items() if fnmatch.fnmatch(group, pattern)), default)
