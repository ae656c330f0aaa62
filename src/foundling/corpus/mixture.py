"""How often each document is used: sources by weight, epochs or budget, languages by temperature, with a cap."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError, nearest
from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.words import mix


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
    max_epochs: float = option(4.0, "no document is used more often than this (Muennighoff et al. 2023)", gt=0)


def plan(config: Mixture, sizes: Mapping[str, int]) -> dict[str, float]:
    """Group -> epochs, so that shares follow the weights and the temperature, under the cap, within the budget.

    A group at the cap gives what it cannot use to the others.

    Raises:
        FoundlingError: a glob names no group.
    """
    for pattern in (*config.weights, *config.epochs):
        if not fnmatch.filter(sizes, pattern):
            what = f"mixture: no {config.by} is {pattern!r}"
            raise FoundlingError(what, f"there are: {', '.join(sorted(sizes))}", nearest(pattern, sizes))
    fixed = {group: epochs for group in sizes if (epochs := _matching(config.epochs, group)) is not None}
    free = {group: float(size) for group, size in sizes.items() if group not in fixed and size}
    total = float(config.budget_bytes or sum(sizes.values()))
    left = max(total - sum(sizes[group] * epochs for group, epochs in fixed.items()), 0.0)
    share = {
        group: size ** (1 / config.temperature) * (1.0 if (w := _matching(config.weights, group)) is None else w)
        for group, size in free.items()
    }
    planned = {group: min(value, config.max_epochs) for group, value in fixed.items()}
    while share:
        scale = left / (sum(share.values()) or 1.0)
        capped = [group for group in share if share[group] * scale > config.max_epochs * free[group]]
        if not capped:
            return planned | {group: share[group] * scale / free[group] for group in share}
        for group in capped:
            planned[group] = config.max_epochs
            left -= config.max_epochs * free[group]
            del share[group]
    return planned


def uses(groups: Sequence[str], ids: Hashes, epochs: Mapping[str, float]) -> Ints:
    """(documents,) how often each is used: the whole epochs, and once more for a share chosen by the id's hash."""
    wanted: NDArray[np.float64] = np.array([epochs.get(group, 1.0) for group in groups])
    draw = mix(ids ^ np.uint64(0x6D6978)).astype(np.float64) / 2.0**64
    return (np.floor(wanted) + (draw < wanted % 1)).astype(np.int64)


def _matching(table: Mapping[str, float], group: str) -> float | None:
    return next((value for pattern, value in table.items() if fnmatch.fnmatch(group, pattern)), None)
