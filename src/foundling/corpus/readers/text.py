"""Plain text, Markdown and source files; and the documentation that ships with Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from foundling.corpus import installed
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine, frame

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece


def read_source(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """One document for each file."""
    text = _read(piece, config, quarantine)
    if text is not None:
        yield frame([text], piece.source, [{"path": piece.name, **_origin(piece.source)}])


def read_plain(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """One document for each file, or several of about `piece_characters`: a book is cut at blank lines."""
    text = _read(piece, config, quarantine)
    if text is not None:
        parts = list(_cut(text, config.piece_characters))
        metas = [{"path": piece.name, **({"part": n} if len(parts) > 1 else {})} for n in range(len(parts))]
        yield frame(parts, piece.source, metas)


def read_documentation(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """Python's language reference and the docstrings of its modules written in C."""
    named = list(installed.documentation())
    metas = [{"path": name, **_origin(installed.STANDARD_LIBRARY)} for name, _ in named]
    yield frame([text for _, text in named], piece.source, metas)


def _read(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> str | None:
    data = Path(piece.path).read_bytes()
    problem = not_text(data)
    if problem:
        quarantine.add(piece.name, problem[1], problem[0], data)
        return None
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def not_text(data: bytes) -> tuple[str, str] | None:
    """(reason, position) if the bytes are no UTF-8 text, else None."""
    if b"\0" in data:
        return "binary (holds a NUL byte)", f"byte {data.index(0)}"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return "not UTF-8", f"byte {error.start}"
    return None


def _origin(source: str) -> dict[str, str]:
    if source == installed.STANDARD_LIBRARY or source.startswith("package:"):
        return {"origin": source, "version": installed.package_version(source)}
    return {}


def _cut(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters, cut after a blank line if there is one, or a line, or anywhere."""
    start = 0
    while len(text) - start > size:
        end = start + size
        for separator in ("\n\n", "\n", " "):
            found = text.rfind(separator, start + size // 2, end)
            if found >= 0:
                end = found + len(separator)
                break
        yield text[start:end]
        start = end
    yield text[start:]
