"""Reads evaluation sets, so that training text can be searched for their items."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from foundling.core.errors import FoundlingError, nearest
from foundling.corpus.readers.streams import BROKEN, open_stream
from foundling.corpus.sources import find

_TABLES: dict[str, Callable[[bytes], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": pl.read_csv,
    ".arrow": pl.read_ipc,
}
_SENTENCE = 8  # words
_JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_items(entries: Sequence[str], fields: Sequence[str]) -> list[str]:
    """The items of evaluation sets: of each row the named fields, or if none are named its texts of eight words or more
    (question, passage). Not its lists, nor shorter texts: choices and subjects stand in many innocent documents.

    Args:
        entries: files, folders, globs or `hf:` datasets: JSON lines, Parquet, CSV, Arrow; of plain text each paragraph.

    Raises:
        FoundlingError: a file cannot be read, or has none of the fields.
    """
    found: dict[str, None] = {}
    for entry in entries:
        for path, name in find(entry):
            before = len(found)
            for row in _rows(path, name):
                found.update(dict.fromkeys(_texts(row, fields)))
            if fields and len(found) == before:
                keys = sorted({key for row in _rows(path, name) for key in row})
                what = f"evaluation set {name} has no text in {', '.join(fields)}"
                raise FoundlingError(what, f"its fields: {', '.join(keys)}", nearest(fields[0], keys))
    return list(found)


def _rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    inner = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    try:
        with open_stream(str(path)) as file:
            data = file.read()
        if inner.suffix in _TABLES:
            yield from _TABLES[inner.suffix](data).to_dicts()
        elif inner.suffix in _JSON_LINES:
            yield from _json_rows(data.decode("utf-8"))
        else:
            yield from ({"text": part} for part in data.decode("utf-8").split("\n\n"))
    except (*BROKEN, ValueError, pl.exceptions.PolarsError) as error:
        raise FoundlingError(f"evaluation set {name} cannot be read", str(error).split("\n")[0]) from None


def _json_rows(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array, or of JSON lines."""
    rows = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, filter(str.strip, text.split("\n")))
    yield from (row for row in rows if isinstance(row, dict))


def _texts(row: dict[str, Any], fields: Sequence[str]) -> Iterator[str]:
    if not fields:
        yield from (value for value in row.values() if isinstance(value, str) and len(value.split()) >= _SENTENCE)
    for field in fields:
        yield from _strings(row.get(field))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
