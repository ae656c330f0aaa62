"""Rows of evaluation data from local files, each with the line it came from, so that mistakes can be named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundling.core.errors import FoundlingError, nearest

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """One record. `where` is "file:line" (or "file, record n")."""

    where: str
    fields: dict[str, Any]


def find_file(name: str, folder: Path) -> Path:
    """A data file: an absolute path, beside the task file, or under the folder that FOUNDLING_DATA names.

    Raises:
        FoundlingError: it is in none of these places.
    """
    places = [folder / name]
    data = os.environ.get("FOUNDLING_DATA")
    if data:
        places.append(Path(data) / name)
    for place in places:
        if place.is_file():
            return place
    fix = "" if data else "Set FOUNDLING_DATA to the folder that holds the evaluation data"
    looked = " or ".join(str(place.parent) for place in places)
    siblings = [p.name for place in places if place.parent.is_dir() for p in place.parent.iterdir()]
    raise FoundlingError(f"data file {name!r} is not in {looked}", nearest(Path(name).name, siblings), fix)


def read_rows(path: Path) -> list[Row]:
    """All rows of a .jsonl, .json (a list), .csv or .parquet file; .gz of the first three.

    Raises:
        FoundlingError: naming the file and line that is broken.
    """
    name = path.name.removesuffix(".gz")
    ending = next((e for e in ENDINGS if name.endswith(e)), None)
    if ending is None:
        raise FoundlingError(f"{path} is not a kind of data file we read", f"expected {', '.join(ENDINGS)}")
    if ending == ".parquet":
        import polars

        return [Row(f"{path.name}, record {n}", row) for n, row in enumerate(polars.read_parquet(path).to_dicts(), 1)]
    text = _text(path)
    rows = list({".jsonl": _jsonl, ".json": _json, ".csv": _csv}[ending](text, path.name))
    if not rows:
        raise FoundlingError(f"{path} holds no rows")
    return rows


def _text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FoundlingError(f"{path} cannot be read", str(error)) from None


def _jsonl(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise FoundlingError(f"{name}:{number} is not JSON", str(error).replace("line 1 ", "")) from None
            yield _row(f"{name}:{number}", fields)


def _json(text: str, name: str) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise FoundlingError(f"{name} is not JSON", str(error)) from None
    if not isinstance(rows, list):
        raise FoundlingError(f"{name} holds one {type(rows).__name__}", "a list of rows was expected")
    for number, fields in enumerate(rows, 1):
        yield _row(f"{name}, record {number}", fields)


def _csv(text: str, name: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            where = f"{name}:{reader.line_num}"
            if None in fields or None in fields.values():
                raise FoundlingError(f"{where} has another number of columns than the header")
            yield Row(where, fields)
    except csv.Error as error:
        raise FoundlingError(f"{name}:{reader.line_num} is not CSV", str(error)) from None


def _row(where: str, fields: Any) -> Row:
    if not isinstance(fields, dict):
        raise FoundlingError(f"{where} holds {type(fields).__name__}", "a JSON object was expected")
    return Row(where, fields)
