"""Parquet, Arrow and CSV, batch by batch: the text in one column, the other plain columns kept as meta."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from foundling.core.errors import FoundlingError, nearest
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine
from foundling.corpus.readers.streams import BROKEN, open_stream

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece

_ROWS = 4096


def read_parquet(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """Row batches of a Parquet file."""
    yield from _guarded(lambda: pa.parquet.ParquetFile(piece.path).iter_batches(_ROWS), piece, config, quarantine)


def read_csv(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """Rows of a CSV or TSV file with a header; a row with the wrong number of cells is quarantined."""

    def broken(row: pa.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} cells instead of {row.expected_columns}"
        quarantine.add(piece.name, f"row {row.number}" if row.number else "", reason, row.text or "")
        return "skip"

    parse = pa.csv.ParseOptions(
        delimiter="\t" if ".tsv" in piece.path.lower()[-8:] else ",",
        newlines_in_values=True,
        invalid_row_handler=broken,
    )
    read = pa.csv.ReadOptions(block_size=config.max_record_bytes, use_threads=False)
    with open_stream(piece.path) as file:
        yield from _guarded(lambda: pa.csv.open_csv(pa.PythonFile(file), read, parse), piece, config, quarantine)


def read_arrow(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """An Arrow IPC file or stream (what Hugging Face `datasets` writes)."""

    def batches() -> Iterable[pa.RecordBatch]:
        source = pa.memory_map(piece.path)
        try:
            file = pa.ipc.open_file(source)
            return (file.get_batch(n) for n in range(file.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source)

    yield from _guarded(batches, piece, config, quarantine)


def _guarded(open_batches, piece, config, quarantine):  # type: ignore[no-untyped-def]
    try:
        row = 0
        for batch in open_batches():
            yield _documents(pl.DataFrame(batch), row, piece, config, quarantine)
            row += batch.num_rows
    except BROKEN as error:
        quarantine.add(piece.name, "", f"cannot be read on: {(str(error).splitlines() or [type(error).__name__])[0]}")


def _documents(
    table: pl.DataFrame, first_row: int, piece: Piece, config: CorpusConfig, quarantine: Quarantine
) -> pl.DataFrame:
    if config.text_field not in table.columns:
        columns = ", ".join(table.columns)
        hint = nearest(config.text_field, table.columns)
        raise FoundlingError(f"{piece.name} has no column {config.text_field!r}", f"columns: {columns}", hint)
    plain = [c for c in table.columns if c != config.text_field and not table.schema[c].is_nested()]
    meta = [json.dumps({"path": piece.name, **row}, sort_keys=True, ensure_ascii=False, default=str) for row in
            table.select(plain).to_dicts()] if plain else [json.dumps({"path": piece.name})] * len(table)  # fmt: skip
    documents = table.select(pl.col(config.text_field).cast(pl.String).alias("text")).with_columns(
        pl.lit(piece.source).alias("source"), pl.Series("meta", meta, dtype=pl.String)
    )
    for number in documents["text"].is_null().arg_true():
        quarantine.add(piece.name, f"row {first_row + number}", "the text is null")
    return documents.filter(pl.col("text").is_not_null())
