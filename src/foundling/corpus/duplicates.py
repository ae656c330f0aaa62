"""Which documents are copies of which: exact ones by content hash, near ones by MinHash-LSH."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.signatures import Bands, Signatures, similarity

_VERIFY_ROWS = 200_000


def exact(ids: Hashes) -> NDArray[np.bool_]:
    """(documents,) True for each document whose content hash an earlier one has."""
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated


def near_clusters(signatures: Signatures, threshold: float, among: NDArray[np.bool_]) -> Ints:
    """(documents,) the number of the first document of each one's cluster of near duplicates.

    Documents that share a band are candidates; a candidate pair counts if at least `threshold` of the two signatures
    agrees. Clusters are the connected components of those pairs (as in FineWeb; Penedo et al. 2024).

    Args:
        signatures: (documents, permutations) uint32; may be memory-mapped, one band is in memory at a time.
        among: (documents,) bool; the others are clusters of their own (texts too short to compare, exact copies).
    """
    bands = Bands.for_threshold(threshold)
    who = np.flatnonzero(among)
    edges = [np.zeros((0, 2), np.int64)]
    for number in range(bands.count):
        part = np.ascontiguousarray(signatures[who, number * bands.rows : (number + 1) * bands.rows])
        hashes = Bands(1, bands.rows).hashes(part)[:, 0]
        edges.append(_verified(who[_same_bucket(hashes)], signatures, threshold))
    return _components(np.unique(np.concatenate(edges), axis=0), len(signatures))


def _same_bucket(hashes: Hashes) -> Ints:
    """(pairs, 2) positions: each member of a bucket with its first and with the one before it."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.zeros(0, int)
    first = np.repeat(starts, np.diff(np.append(starts, len(ordered))))
    here = np.arange(len(ordered))
    follows = here > first
    with_first = np.stack([order[first[follows]], order[here[follows]]], axis=1)
    with_previous = np.stack([order[here[follows] - 1], order[here[follows]]], axis=1)
    return np.concatenate([with_first, with_previous])


def _verified(pairs: Ints, signatures: Signatures, threshold: float) -> Ints:
    pairs = np.unique(pairs, axis=0)
    alike = [np.zeros(0, bool)]
    for first in range(0, len(pairs), _VERIFY_ROWS):
        chunk = pairs[first : first + _VERIFY_ROWS]
        alike.append(similarity(signatures[chunk[:, 0]], signatures[chunk[:, 1]]) >= threshold)
    return pairs[np.concatenate(alike)]


def _components(edges: Ints, count: int) -> Ints:
    """(count,) the smallest member of each node's connected component."""
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    smallest = np.full(count, count, np.int64)
    np.minimum.at(smallest, labels, np.arange(count))
    return smallest[labels]


def choose(clusters: Ints, better: Callable[[Ints], Ints] | None = None) -> NDArray[np.bool_]:
    """(documents,) True for the one kept of each cluster: the first, or the one `better` ranks lowest."""
    order = np.arange(len(clusters))
    rank = better(order) if better else order
    ordered = np.lexsort((rank, clusters))
    keep = np.zeros(len(clusters), bool)
    keep[ordered[np.unique(clusters[ordered], return_index=True)[1]]] = True
    return keep
