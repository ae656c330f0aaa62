"""Which documents are held out: whole clusters of similar documents, chosen by a hash, up to a size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.config import CorpusConfig
from foundling.corpus.words import mix


def validation(
    config: CorpusConfig, ids: Hashes, sizes: Ints, clusters: Ints, eligible: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(documents,) True for documents of the validation split.

    A cluster is held out as a whole or not at all, and only if all its members are eligible. Which ones: ordered by
    a hash of the seed and their smallest id, taken until the split is full. It does not depend on the order of the
    sources, and adding documents elsewhere moves few others.

    Args:
        ids: (documents,) content hashes.
        sizes: (documents,) bytes.
        clusters: (documents,) label of each document's cluster of similar ones.
        eligible: (documents,) whether the document's source may be held out.
    """
    chosen = np.zeros(len(ids), bool)
    budget = min(config.validation_bytes, int(config.validation_share * sizes.sum()))
    if budget == 0:
        return chosen
    _, group = np.unique(clusters, return_inverse=True)
    n_groups = int(group.max()) + 1
    weight = np.bincount(group, sizes, n_groups).astype(np.float64)
    blocked = np.bincount(group, ~eligible, n_groups) > 0
    name = np.full(n_groups, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(name, group, ids)
    order = np.argsort(mix(name ^ np.uint64(seed_for(config.seed, "validation"))), kind="stable")
    taken = _take(order[~blocked[order]], weight, budget)
    if not len(taken):
        return group == _smallest(np.flatnonzero(~blocked), weight, n_groups)
    return np.isin(group, taken)


def _smallest(free: Ints, weight: NDArray[np.float64], n_groups: int) -> int:
    """A small corpus, none of whose documents is within the share: its smallest one is held out.

    Raises:
        FoundlingError: there is nothing to hold out beside what is to be trained on.
    """
    if not len(free) or n_groups < 2:
        what = "there is no document to hold out for validation"
        raise FoundlingError(what, "a corpus needs at least two documents", "Add text, or set validation_bytes=0")
    return int(free[np.argmin(weight[free])])


def _take(order: Ints, weight: NDArray[np.float64], budget: int) -> Ints:
    """Clusters in that order until their sizes reach the budget, which the last one may exceed.

    Filling the rest with small ones would make the held-out documents shorter than the others, and so harder.
    """
    order = order[weight[order] <= budget]
    return order[: int(np.searchsorted(np.cumsum(weight[order]), budget)) + 1]
