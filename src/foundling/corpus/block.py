"""One block of the corpus: read, apply the rules, sign. Pure in (block, config, items), so blocks may run anywhere.

A finished block is a directory: documents.parquet (id, text, source, meta), dropped.parquet, signatures.u32
(documents, 128), facts.i64 (documents, 4) [id, bytes, comparable, contaminated], quarantine.json and counts.json.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

from foundling.core.errors import FoundlingError
from foundling.core.files import write_json
from foundling.corpus.columns import FlatText, Ints
from foundling.corpus.config import CorpusConfig
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.documents import SCHEMA, Quarantine, with_ids
from foundling.corpus.readers import registry
from foundling.corpus.readers.tables import parquet_batches, parts
from foundling.corpus.repeated import write_pieces
from foundling.corpus.rules import c4, fineweb, gopher, language, licences, personal, shape, web
from foundling.corpus.rules.rule import Rule, apply
from foundling.corpus.signatures import SHINGLE_WORDS, signatures
from foundling.corpus.sources import Block
from foundling.corpus.words import WordHashes, word_hashes

DROPPED_SCHEMA = pa.schema(
    {
        n: pa.int64() if n == "bytes" else pa.large_string()
        for n in ("id", "source", "reason", "excerpt", "bytes", "meta")
    }
)
PORTION_BYTES = 8_000_000
FACT_BYTES = 32
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
        parts = [np.fromfile(folder / "facts.i64", np.int64).reshape(-1, 4) for folder in folders]
        rows = np.concatenate([np.zeros((0, 4), np.int64), *parts])
        return cls(*(np.ascontiguousarray(column) for column in rows.T))


def run(block: Block, config: CorpusConfig, held_out: HeldOut, scorers: Sequence[Rule], folder: Path) -> Path:
    """Make a block's directory, unless an earlier run has finished it.

    Args:
        scorers: rules by trained models, which run after all others.
    """
    target = folder_of(block, folder)
    if target.is_dir():
        return target
    partial = folder / f"partial-{block.number:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(block, [*rules_of(config), *scorers], config, held_out, partial)
    partial.rename(target)
    return target


def folder_of(block: Block, folder: Path) -> Path:
    """Where a finished block lies."""
    return folder / f"block-{block.number:06d}"


def sign(corpora: Sequence[str], splits: Sequence[str], target: Path) -> Path:
    """A directory with the facts and signatures of the documents of finished corpora, as a block has them.

    Raises:
        FoundlingError: a folder holds no corpus.
    """
    target.mkdir(parents=True, exist_ok=True)
    with (target / "facts.i64").open("wb") as facts, (target / "signatures.u32").open("wb") as signed:
        for corpus in corpora:
            files = [path for split in splits if (path := _split_file(corpus, split)).is_file()]
            if not files:
                raise FoundlingError(f"not_in: {corpus} is no corpus", "it has no train.parquet")
            for rows in (rows for file in files for rows in rows_of(file)):
                words = word_hashes(FlatText.of(rows["text"]))
                _facts(rows, words, HeldOut([])).tofile(facts)
                signatures(words).tofile(signed)
    return target


def _split_file(corpus: str, split: str) -> Path:
    return Path(corpus).expanduser() / f"{split}.parquet"


def rules_of(config: CorpusConfig) -> list[Rule]:
    """All rules of a config, in the order in which they run."""
    generated = shape.generated() if config.code and config.code.generated else []
    strip = licences.rules() if config.strip_licences else []
    code = shape.code(config.code) if config.code else []
    return [*generated, *strip, *shape.rules(config), *code, *_published(config), *personal.rules(config)]


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


def _write(block: Block, rules: Sequence[Rule], config: CorpusConfig, held_out: HeldOut, folder: Path) -> None:
    quarantine = Quarantine()
    read: Counter[str] = Counter()
    edited: dict[str, Counter[str]] = {}
    documents_schema = pa.schema(dict.fromkeys(SCHEMA, pa.large_string()))
    with (
        pa.parquet.ParquetWriter(folder / "documents.parquet", documents_schema, compression="lz4") as documents,
        pa.parquet.ParquetWriter(folder / "dropped.parquet", DROPPED_SCHEMA, compression="lz4") as dropped,
        (folder / "facts.i64").open("wb") as facts,
        (folder / "signatures.u32").open("wb") as signed,
    ):
        if config.repeated:
            write_pieces(pl.Series([], dtype=pl.String), config.repeated, folder)  # the files must be there
        for portion in _portions(block, config, quarantine):
            read.update({"documents": len(portion), "bytes": int(portion["text"].str.len_bytes().sum())})
            outcome = apply(portion, rules)
            for name, numbers in outcome.edited.items():
                edited.setdefault(name, Counter()).update(
                    dict(zip(("documents", "bytes_removed"), numbers, strict=True))
                )
            kept = with_ids(outcome.kept)
            documents.write_table(kept.to_arrow().cast(documents_schema))
            dropped.write_table(outcome.dropped.select(DROPPED_SCHEMA.names).to_arrow().cast(DROPPED_SCHEMA))
            if len(kept):
                words = word_hashes(FlatText.of(kept["text"]))
                _facts(kept, words, held_out).tofile(facts)
                signatures(words).tofile(signed)
                if config.repeated:
                    write_pieces(kept["text"], config.repeated, folder)
    counts = {"read": {"documents": 0, "bytes": 0} | read, "edited": edited, "quarantine": dict(quarantine.counts)}
    write_json(folder / "counts.json", counts)
    write_json(folder / "quarantine.json", quarantine.entries)


def _portions(block: Block, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """The block's documents in frames of about `PORTION_BYTES`, with a column that tells source files apart."""
    waiting: list[pl.DataFrame] = []
    size = 0
    for piece in block.pieces:
        for documents in registry.load(piece.reader)(piece, config, quarantine):
            waiting.append(documents.with_columns(code=pl.lit(piece.reader == "text")))
            size += int(documents["text"].str.len_bytes().sum())
            if size >= PORTION_BYTES:
                yield pl.concat(waiting)
                waiting, size = [], 0
    if waiting:
        yield pl.concat(waiting)


def _facts(kept: pl.DataFrame, words: WordHashes, held_out: HeldOut) -> Ints:
    """(documents, 4) int64: see `Facts`."""
    ids = np.array([int(i, 16) for i in kept["id"]], np.uint64).view(np.int64)
    comparable = (np.diff(words.offsets) >= MIN_SHINGLES + SHINGLE_WORDS - 1).astype(np.int64)
    sizes = kept["text"].str.len_bytes().cast(pl.Int64).to_numpy()
    return np.stack([ids, sizes, comparable, held_out.matches(words)[0]], axis=1)


def read_counts(folder: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    """A finished block's counts.json."""
    counts: dict[str, dict] = json.loads((folder / "counts.json").read_text(encoding="utf-8"))  # type: ignore[type-arg]
    assert set(counts) == {"read", "edited", "quarantine"}
    return counts


def read_quarantine(folder: Path) -> list[dict[str, str]]:
    """A finished block's broken records."""
    entries: list[dict[str, str]] = json.loads((folder / "quarantine.json").read_text(encoding="utf-8"))
    return entries


def rows_of(file: Path) -> Iterator[pl.DataFrame]:
    """The rows of a Parquet file in frames of bounded size."""
    for batch in parquet_batches(file):
        for part in parts(batch):
            yield cast(pl.DataFrame, pl.from_arrow(part))
