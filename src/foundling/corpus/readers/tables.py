"""Parquet, Arrow and CSV, batch by batch: the text in one column, the other plain columns kept as meta."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from foundling.core.errors import FoundlingError, nearest
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine
from foundling.corpus.readers.jsonl import CHAT_FIELDS, dialogue
from foundling.corpus.readers.streams import BROKEN, open_stream

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece

_ROWS = 256  # of a batch, at most
_BYTES = 8_000_000  # of a frame's texts, but for a longer row


def read_parquet(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """Rows of a Parquet file, read page by page."""
    yield from _guarded(lambda: parquet_batches(piece.path), piece, config, quarantine)


def parquet_batches(path: str | Path) -> Iterator[pa.RecordBatch]:
    """Row batches of a Parquet file for `parts`: what a dictionary holds once stays one text."""
    about = pa.parquet.read_metadata(path)
    texts = [field.name for field in about.schema.to_arrow_schema() if _is_text(field.type)]
    size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    rows = max(1, min(_ROWS, _BYTES * about.num_rows // max(size, 1)))
    with pa.parquet.ParquetFile(path, read_dictionary=texts, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(rows)


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
            batch.schema.names  # noqa: B018 (raises where a name is not UTF-8, of which polars dies)
            batch.validate(full=True)
            for part in parts(batch):
                yield _documents(pl.DataFrame(part), row, piece, config, quarantine)
                row += part.num_rows
    except (*BROKEN, UnicodeDecodeError) as error:
        quarantine.add(piece.name, "", f"cannot be read on: {(str(error).splitlines() or [type(error).__name__])[0]}")


def parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Rows whose texts are of about `_BYTES` together, without dictionaries: a megabyte of those may be gigabytes."""
    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        coded = pa.types.is_dictionary(column.type)
        if _is_text(column.type.value_type if coded else column.type):
            lengths = pc.binary_length(column.dictionary).take(column.indices) if coded else pc.binary_length(column)
            sizes += lengths.fill_null(0).cast(pa.int64()).to_numpy()
    edges = np.flatnonzero(np.diff(np.cumsum(sizes) // _BYTES)) + 1
    for start, end in pairwise([0, *edges.tolist(), batch.num_rows]):
        part = batch.slice(start, end - start)
        columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in part.columns]
        yield pa.RecordBatch.from_arrays(columns, part.schema.names)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _documents(
    table: pl.DataFrame, first_row: int, piece: Piece, config: CorpusConfig, quarantine: Quarantine
) -> pl.DataFrame:
    if config.text_field not in table.columns:
        chat = next((name for name in CHAT_FIELDS if name in table.columns), None)
        if chat is None:
            columns = ", ".join(table.columns)
            hint = nearest(config.text_field, table.columns)
            raise FoundlingError(f"{piece.name} has no column {config.text_field!r}", f"columns: {columns}", hint)
        told = [dialogue({chat: turns}) for turns in table[chat].to_list()]
        table = table.with_columns(pl.Series(config.text_field, told, dtype=pl.String))
    plain = [
        c
        for c in table.columns
        if c != config.text_field and not table.schema[c].is_nested() and table.schema[c] != pl.Binary
    ]
    meta = [json.dumps({"path": piece.name, **row}, sort_keys=True, ensure_ascii=False, default=str) for row in
            table.select(plain).to_dicts()] if plain else [json.dumps({"path": piece.name})] * len(table)  # fmt: skip
    texts = table[config.text_field]
    if texts.dtype == pl.Binary:  # what pyarrow makes of a CSV column that is not all UTF-8
        texts = pl.Series([_decoded(value) for value in texts], dtype=pl.String)
    documents = pl.DataFrame({"text": texts.cast(pl.String)}).with_columns(
        pl.lit(piece.source).alias("source"), pl.Series("meta", meta, dtype=pl.String)
    )
    longest = config.max_record_bytes
    problem = documents.select(
        pl.when(pl.col("text").is_null() & table[config.text_field].is_null())
        .then(pl.lit("the text is null"))
        .when(pl.col("text").is_null())
        .then(pl.lit("not UTF-8"))
        .when(pl.col("text").str.len_bytes() > longest)
        .then(pl.lit(f"longer than {longest} bytes"))
        .when(pl.col("text").str.contains("\0", literal=True))
        .then(pl.lit("binary (holds a NUL byte)"))
    ).to_series()
    for number in problem.is_not_null().arg_true():
        excerpt = (documents["text"][number] or "")[:400]
        quarantine.add(piece.name, f"row {first_row + number}", problem[number], excerpt)
    return documents.filter(problem.is_null())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None
