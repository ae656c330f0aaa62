"""Lines or paragraphs that many documents share: menus, disclaimers, licences (CCNet; Wenzek et al. 2020).

Each block writes one hash for every piece of its texts; which occurrences go is decided with the hashes of all blocks,
a part of the hash's range at a time, so that memory does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foundling.corpus.columns import FlatText, Hashes, Ints
from foundling.corpus.rules.config import RepeatedText
from foundling.corpus.words import mix, powers

SEPARATORS = {"line": "\n", "paragraph": "\n\n"}
_PART_PIECES = 20_000_000  # hashes that are sorted together
_CHUNK_BYTES = 1 << 21


def write_pieces(texts: pl.Series, config: RepeatedText, folder: Path) -> None:
    """Append the texts' pieces to a block: pieces.u64 (pieces,) hashes, 0 for short ones; pieces.n (texts,) counts."""
    pieces = texts.str.split(SEPARATORS[config.unit])
    hashes = np.zeros(int(pieces.list.len().sum()), np.uint64)
    flat = pieces.explode()
    long = flat.str.len_chars() >= config.min_characters
    hashes[long.arg_true().to_numpy()] = _hashes(flat.filter(long))
    with (folder / "pieces.u64").open("ab") as file:
        hashes.tofile(file)
    with (folder / "pieces.n").open("ab") as file:
        pieces.list.len().cast(pl.Int64).to_numpy().tofile(file)


class Cuts:
    """Which pieces of which documents go.

    Args:
        folders: the blocks.
        among: (documents,) only pieces of these documents count and may go.
        scratch: a folder for one byte a piece.
    """

    def __init__(self, config: RepeatedText, folders: Sequence[Path], among: NDArray[np.bool_], scratch: Path) -> None:
        self.separator = SEPARATORS[config.unit]
        counts = [np.fromfile(folder / "pieces.n", np.int64) for folder in folders]
        self._edges: Ints = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        total = int(self._edges[-1])
        self._gone = np.memmap(scratch / "pieces.gone", np.bool_, "w+", shape=(max(total, 1),))
        parts = 1 << max(0, (total // _PART_PIECES).bit_length())
        for part in range(parts):
            where, hashes = self._part(folders, counts, among, part, parts)
            order = np.argsort(hashes, kind="stable")
            ordered = hashes[order]
            starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
            place = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.append(starts, len(ordered))))
            self._gone[where[order[place >= config.times]]] = True

    @staticmethod
    def _part(
        folders: Sequence[Path], counts: Sequence[Ints], among: NDArray[np.bool_], part: int, parts: int
    ) -> tuple[Ints, Hashes]:
        """((pieces,) positions, (pieces,) hashes) of one part of the hash's range."""
        where, found = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        document = position = 0
        for folder, count in zip(folders, counts, strict=True):
            hashes = np.fromfile(folder / "pieces.u64", np.uint64)
            here = np.repeat(among[document : document + len(count)], count) & (hashes != 0)
            here &= (hashes & np.uint64(parts - 1)) == part
            where.append(position + np.flatnonzero(here))
            found.append(hashes[here])
            document += len(count)
            position += len(hashes)
        return np.concatenate(where), np.concatenate(found)

    def apply(self, texts: pl.Series, first: int) -> pl.Series:
        """The texts of documents `first`, `first` + 1, ... without the pieces that go."""
        edges = self._edges[first : first + len(texts) + 1]
        gone = self._gone[edges[0] : edges[-1]]
        running = np.concatenate([[0], np.cumsum(gone)])[edges - edges[0]]
        changed = texts.to_list()
        for number in np.flatnonzero(np.diff(running)):
            mine = gone[edges[number] - edges[0] : edges[number + 1] - edges[0]]
            pieces = zip(changed[number].split(self.separator), mine, strict=True)
            changed[number] = self.separator.join(piece for piece, is_gone in pieces if not is_gone)
        return pl.Series(changed, dtype=pl.String)


def _hashes(pieces: pl.Series) -> Hashes:
    """(pieces,) uint64, of texts that are not empty; equal text, equal hash, on every machine; never 0."""
    flat = FlatText.of(pieces)
    found = [np.zeros(0, np.uint64)]
    first = 0
    while first < len(flat):
        last = int(np.searchsorted(flat.offsets, flat.offsets[first] + _CHUNK_BYTES, side="right")) - 1
        last = max(last, first + 1)
        edges = flat.offsets[first : last + 1]
        lengths = np.diff(edges)
        place = np.arange(edges[-1] - edges[0]) - np.repeat(edges[:-1] - edges[0], lengths)
        terms = (flat.data[edges[0] : edges[-1]].astype(np.uint64) + np.uint64(1)) * powers(int(lengths.max()))[place]
        found.append(mix(np.add.reduceat(terms, edges[:-1] - edges[0])) | np.uint64(1 << 63))
        first = last
    return np.concatenate(found)
