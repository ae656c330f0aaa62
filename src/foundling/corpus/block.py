"""One block of the corpus: read, apply the rules, sign. Pure in (block, config, items), so blocks may run anywhere.

A finished block is a directory: documents.parquet (id, text, source, meta), dropped.parquet, signatures.npy
(documents, 128) uint32, facts.npy (documents, 4) int64 [id, bytes, comparable, contaminated], and counts.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from foundling.core.files import write_json
from foundling.corpus.columns import FlatText, Ints
from foundling.corpus.config import CorpusConfig
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.documents import SCHEMA, Quarantine, frame, with_ids
from foundling.corpus.readers import registry
from foundling.corpus.rules import c4, fineweb, gopher, language, licences, personal, shape, web
from foundling.corpus.rules.rule import Outcome, Rule, apply
from foundling.corpus.signatures import PERMUTATIONS, SHINGLE_WORDS, Signatures, signatures
from foundling.corpus.sources import Block
from foundling.corpus.words import word_hashes

MIN_SHINGLES = 20  # a text with fewer runs of five words is compared exactly only: MinHash says nothing about it


@dataclass(frozen=True)
class Facts:
    """What the whole-corpus steps need of each document, without its text."""

    ids: Ints
    sizes: Ints
    comparable: Ints
    contaminated_by: Ints

    @classmethod
    def load(cls, folders: Sequence[Path]) -> Facts:
        """The facts of all blocks, in order."""
        rows = np.concatenate([np.zeros((0, 4), np.int64), *(np.load(f / "facts.npy") for f in folders)])
        return cls(*(np.ascontiguousarray(column) for column in rows.T))


def run(block: Block, config: CorpusConfig, held_out: HeldOut, folder: Path) -> Path:
    """Make a block's directory, unless an earlier run has finished it."""
    target = folder / f"block-{block.number:06d}"
    if target.is_dir():
        return target
    partial = folder / f"partial-{block.number:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(block, config, held_out, partial)
    partial.rename(target)
    return target


def rules_of(config: CorpusConfig) -> list[Rule]:
    """All rules of a config, in the order in which they run."""
    generated = shape.generated() if config.drop_generated else []
    strip = licences.rules() if config.strip_licences else []
    return [*generated, *strip, *shape.rules(config), *_published(config), *personal.rules(config)]


def _published(config: CorpusConfig) -> list[Rule]:
    """The published rule sets, in FineWeb's order: address, language, Gopher, C4, FineWeb's own."""
    found: list[Rule] = []
    if config.web:
        found.extend(web.rules(config.web))
    if config.language:
        found.extend(language.rules(config.language))
    if config.gopher_repetition:
        found.append(gopher.repetition(config.gopher_repetition))
    if config.gopher_quality:
        found.append(gopher.quality(config.gopher_quality))
    if config.c4:
        found.append(c4.quality(config.c4))
    if config.fineweb:
        found.append(fineweb.quality(config.fineweb))
    return found


def _write(block: Block, config: CorpusConfig, held_out: HeldOut, folder: Path) -> None:
    quarantine = Quarantine()
    frames = [frame([], "", []).with_columns(code=pl.lit(False))]
    for piece in block.pieces:
        for documents in registry.load(piece.reader)(piece, config, quarantine):
            frames.append(documents.with_columns(code=pl.lit(piece.reader == "text")))
    documents = pl.concat(frames)
    read = {"documents": len(documents), "bytes": int(documents["text"].str.len_bytes().sum())}
    outcome = apply(documents, rules_of(config))
    kept = with_ids(outcome.kept)
    facts, signed = _facts(kept, held_out)
    kept.write_parquet(folder / "documents.parquet", compression="lz4")
    outcome.dropped.write_parquet(folder / "dropped.parquet")
    np.save(folder / "facts.npy", facts)
    np.save(folder / "signatures.npy", signed)
    write_json(folder / "counts.json", {"read": read, "edited": _edits(outcome), "quarantine": quarantine.entries})


def _facts(kept: pl.DataFrame, held_out: HeldOut) -> tuple[Ints, Signatures]:
    if not len(kept):
        return np.zeros((0, 4), np.int64), np.zeros((0, PERMUTATIONS), np.uint32)
    words = word_hashes(FlatText.of(kept["text"]))
    ids = np.array([int(i, 16) for i in kept["id"]], np.uint64).view(np.int64)
    comparable = (np.diff(words.offsets) >= MIN_SHINGLES + SHINGLE_WORDS - 1).astype(np.int64)
    sizes = kept["text"].str.len_bytes().cast(pl.Int64).to_numpy()
    return np.stack([ids, sizes, comparable, held_out.matches(words)[0]], axis=1), signatures(words)


def _edits(outcome: Outcome) -> dict[str, dict[str, int]]:
    return {name: {"documents": n, "bytes_removed": removed} for name, (n, removed) in outcome.edited.items()}


def read_counts(folder: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    """A finished block's counts.json."""
    counts: dict[str, dict] = json.loads((folder / "counts.json").read_text(encoding="utf-8"))  # type: ignore[type-arg]
    assert set(counts) == {"read", "edited", "quarantine"}
    return counts


def documents_of(folder: Path) -> pl.DataFrame:
    """A finished block's documents."""
    return pl.read_parquet(folder / "documents.parquet").select(list(SCHEMA))
