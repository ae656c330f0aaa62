"""Which documents are copies of which: exact ones by content hash, near ones by MinHash-LSH."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.signatures import Bands, Signatures, similarity

_VERIFY_ROWS = 200_000
_BAND_ROWS = 500_000


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
        signatures: (documents, permutations) uint32; may be memory-mapped, one band's hashes are in memory at a time.
        among: (documents,) bool; the others are clusters of their own (texts too short to compare, exact copies).
    """
    bands = Bands.for_threshold(threshold)
    who = np.flatnonzero(among)
    edges = [np.zeros((0, 2), np.int64)]
    for number in range(bands.count):
        hashes = _band_hashes(signatures, who, number, bands)
        edges.append(_verified(who[_same_bucket(hashes)], signatures, threshold))
    return _components(np.unique(np.concatenate(edges), axis=0), len(signatures))


def _band_hashes(signatures: Signatures, who: Ints, number: int, bands: Bands) -> Hashes:
    """(documents,) one band of each document's signature as one hash."""
    found = np.empty(len(who), np.uint64)
    columns = slice(number * bands.rows, (number + 1) * bands.rows)
    for first in range(0, len(who), _BAND_ROWS):
        part = signatures[who[first : first + _BAND_ROWS], columns]
        found[first : first + _BAND_ROWS] = Bands(1, bands.rows).hashes(part)[:, 0]
    return found


def _same_bucket(hashes: Hashes) -> Ints:
    """(pairs, 2) positions: each member of a bucket with its first and with the one before it."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    follows = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1  # (members of a bucket, but for its first,)
    starts = follows[np.concatenate([[True], np.diff(follows) > 1])] - 1 if len(follows) else follows
    first = starts[np.searchsorted(starts, follows, side="right") - 1] if len(follows) else follows
    with_first = np.stack([order[first], order[follows]], axis=1)
    with_previous = np.stack([order[follows - 1], order[follows]], axis=1)
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


def choose(clusters: Ints, rank: Ints) -> NDArray[np.bool_]:
    """(documents,) True for the one kept of each cluster: the one of lowest rank, of several the first."""
    ordered = np.lexsort((rank, clusters))
    keep = np.zeros(len(clusters), bool)
    keep[ordered[np.unique(clusters[ordered], return_index=True)[1]]] = True
    return keep
