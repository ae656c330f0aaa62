"""The decisions that need all documents: duplicates, the split, leaks, the mixture. On facts, never on texts."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foundling.core.errors import FoundlingError, nearest
from foundling.corpus import duplicates, mixture, splits
from foundling.corpus.block import Facts
from foundling.corpus.columns import Ints
from foundling.corpus.config import CorpusConfig
from foundling.corpus.signatures import PERMUTATIONS, Signatures

# What becomes of a document; the order is that of REASONS.
TRAIN, VALIDATION, EXACT, NEAR, HELD_OUT, CONTAMINATED = range(6)
REASONS = {
    EXACT: "exact duplicate",
    NEAR: "near duplicate",
    HELD_OUT: "similar to a held-out document",
    CONTAMINATED: "contaminated: holds an evaluation item",
}
Fates = NDArray[np.int8]


def fates(
    config: CorpusConfig, facts: Facts, folders: Sequence[Path], earlier: Sequence[Path], held_out: Path | None = None
) -> tuple[Fates, Ints]:
    """((documents,) what becomes of each, (documents,) its cluster of near duplicates).

    Args:
        earlier: directories with facts and signatures of earlier corpora; their documents come first, so they stay.
        held_out: such a directory of another corpus's validation documents, which are this one's too.
    """
    everything = Facts.load([*earlier, *folders]) if earlier else facts
    old = len(everything.ids) - len(facts.ids)
    fate = np.full(len(facts.ids), TRAIN, np.int8)
    if config.exact_duplicates:
        fate[duplicates.exact(everything.ids.view(np.uint64))[old:]] = EXACT
    signed = _all_signatures([*earlier, *folders], folders[0].parent / "signatures.u32")
    clusters = np.arange(len(fate))
    if config.near_duplicates:
        among = np.concatenate([np.ones(old, bool), fate == TRAIN]) & (everything.comparable > 0)
        found = duplicates.near_clusters(signed, config.near_duplicates, among)
        rank = -everything.sizes if config.representative == "longest" else np.arange(len(found))
        rank[:old] = np.iinfo(np.int64).min  # an earlier corpus keeps what it has
        fate[(fate == TRAIN) & ~duplicates.choose(found, rank)[old:]] = NEAR
        clusters = found[old:]
    if held_out:
        fate[(fate == TRAIN) & _similar(config, facts, folders, held_out)] = HELD_OUT
    elif config.validation_bytes:
        _hold_out(config, facts, folders, signed[old:], fate)
    fate[(fate == TRAIN) & (facts.contaminated_by >= 0)] = CONTAMINATED
    return fate, clusters


def _hold_out(config: CorpusConfig, facts: Facts, folders: Sequence[Path], signed: Signatures, fate: Fates) -> None:
    """Move the held-out documents of `fate` from train to validation."""
    similar = np.arange(len(fate))
    if config.same_side:
        similar = duplicates.near_clusters(signed, config.same_side, (fate == TRAIN) & (facts.comparable > 0))
    eligible = _eligible(config, folders, len(fate))
    index = np.flatnonzero(fate == TRAIN)
    ids, sizes = facts.ids.view(np.uint64)[index], facts.sizes[index]
    fate[index[splits.validation(config, ids, sizes, similar[index], eligible[index])]] = VALIDATION


def _similar(config: CorpusConfig, facts: Facts, folders: Sequence[Path], held_out: Path) -> NDArray[np.bool_]:
    """(documents,) whether the split would not have let the document and a held-out one fall on two sides."""
    theirs = Facts.load([held_out])
    old = len(theirs.ids)
    found = np.isin(facts.ids, theirs.ids)
    if config.same_side:
        signed = _all_signatures([held_out, *folders], folders[0].parent / "with-held-out.u32")
        among = np.concatenate([theirs.comparable, facts.comparable]) > 0
        found |= duplicates.near_clusters(signed, config.same_side, among)[old:] < old
    return found


def _all_signatures(folders: Sequence[Path], path: Path) -> Signatures:
    """(documents, PERMUTATIONS) the signatures of all blocks, gathered in a file: half a kilobyte a document."""
    with path.open("wb") as file:
        for folder in folders:
            with (folder / "signatures.u32").open("rb") as part:
                shutil.copyfileobj(part, file)
    if not path.stat().st_size:
        return np.zeros((0, PERMUTATIONS), np.uint32)
    return np.memmap(path, np.uint32, "r").reshape(-1, PERMUTATIONS)


def _eligible(config: CorpusConfig, folders: Sequence[Path], count: int) -> NDArray[np.bool_]:
    wanted = config.validation_source
    if wanted is None:
        return np.ones(count, bool)
    names, codes = _coded(folders, pl.col("source"))
    matching = fnmatch.filter(names, wanted)
    if not matching:
        options = f"sources: {', '.join(names[:8])}"
        raise FoundlingError(f"no source is {wanted!r} (validation_source)", options, nearest(wanted, names))
    return np.isin(np.array(names), matching)[codes]


def uses(
    config: CorpusConfig, facts: Facts, folders: Sequence[Path], train: NDArray[np.bool_]
) -> tuple[Ints, list[dict[str, float]]]:
    """((documents, phases) how often each training document is used, for each phase the epochs of each group)."""
    if config.mixture is None:
        return train.astype(np.int64)[:, None], []
    column = pl.col("source") if config.mixture.by == "source" else pl.col("meta").str.json_path_match("$.language")
    names, codes = _coded(folders, column.fill_null(""))
    sizes = np.bincount(codes[train], facts.sizes[train], len(names)).astype(np.int64)
    phases = mixture.plan(config.mixture, {name: int(size) for name, size in zip(names, sizes, strict=True) if size})
    table = np.array([[epochs.get(name, 0.0) for name in names] for epochs in phases])
    used = mixture.uses(codes, facts.ids.view(np.uint64), table) * train[:, None]
    return used, [{name: round(value, 4) for name, value in epochs.items()} for epochs in phases]


def _coded(folders: Sequence[Path], column: pl.Expr) -> tuple[list[str], Ints]:
    """(the sorted distinct values of a column over all blocks, (documents,) the number of each document's)."""
    files = [folder / "documents.parquet" for folder in folders]
    values = pl.scan_parquet(files).select(column.alias("value"))
    names = values.unique().collect()["value"].sort().to_list()
    parts = [
        pl.scan_parquet(file).select(column.cast(pl.Enum(names)).to_physical().alias("code")).collect()["code"]
        for file in files
    ]
    return names, pl.concat(parts).to_numpy()
