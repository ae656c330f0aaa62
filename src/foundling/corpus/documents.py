"""Documents as columns: what readers yield and rules transform."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

# id: content hash, so that the same text has the same id on any machine; meta: a JSON object.
SCHEMA = {"id": pl.String, "text": pl.String, "source": pl.String, "meta": pl.String}
EXCERPT_CHARACTERS = 200
MAX_KEPT = 1000  # broken records of one kind in one block that are kept; all are counted


def document_id(text: str) -> str:
    """16 hex digits that name a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def frame(texts: Iterable[str], source: str, metas: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Documents of one source as a frame with the columns text, source, meta (ids come after the rules)."""
    rows = [
        (text, json.dumps(meta, sort_keys=True, ensure_ascii=False)) for text, meta in zip(texts, metas, strict=True)
    ]
    columns = {"text": [text for text, _ in rows], "source": [source] * len(rows), "meta": [meta for _, meta in rows]}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def with_ids(documents: pl.DataFrame) -> pl.DataFrame:
    """Add the column `id` and put the columns in the schema's order."""
    ids = pl.Series("id", [document_id(text) for text in documents["text"]], dtype=pl.String)
    return documents.with_columns(ids).select(list(SCHEMA))


@dataclass
class Quarantine:
    """Records that could not be read: where, why, and how they begin. Counted, kept, never passed over in silence."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, file: str, position: str, reason: str, record: bytes | str = b"") -> None:
        """Keep one broken record. `position` is "line 12", "byte 4096", "row 3" or "" for the whole file."""
        self.counts[reason] += 1
        if self.counts[reason] > MAX_KEPT:
            return
        text = record[:400].decode("utf-8", "backslashreplace") if isinstance(record, bytes) else record
        excerpt = text[:EXCERPT_CHARACTERS].replace("\0", "\\0").encode("utf-8", "replace").decode()
        self.entries.append({"file": file, "position": position, "reason": reason, "excerpt": excerpt})
