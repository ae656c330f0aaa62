"""Plain text, Markdown and source files; and the documentation that ships with Python."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from foundling.corpus import installed
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine, frame
from foundling.corpus.readers.streams import broken_files_to, open_stream

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece

_CHUNK_BYTES = 4_000_000


def read_source(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """One document for each file."""
    with broken_files_to(quarantine, piece.name), open_stream(piece.path) as file:
        data = file.read(config.max_record_bytes + 1)
        text = decode(data, piece.name, config, quarantine)
        if text is not None:
            yield frame([text], piece.source, [{"path": piece.name, **_origin(piece.source)}])


def read_plain(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """One document for each file, or several of about `piece_characters`: a book is cut at blank lines."""
    number = 0
    with broken_files_to(quarantine, piece.name):
        for texts, last in _chunks(piece, config.piece_characters, quarantine):
            whole = number == 0 and last and len(texts) == 1
            metas = [{"path": piece.name, **({} if whole else {"part": number + n})} for n in range(len(texts))]
            yield frame(texts, piece.source, metas)
            number += len(texts)


def read_documentation(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """Python's language reference and the docstrings of its modules written in C."""
    named = list(installed.documentation())
    metas = [{"path": name, **_origin(installed.STANDARD_LIBRARY)} for name, _ in named]
    yield frame([text for _, text in named], piece.source, metas)


def decode(data: bytes, name: str, config: CorpusConfig, quarantine: Quarantine) -> str | None:
    """A whole file's text with "\\n" line ends, or None: it is too long, binary or not UTF-8."""
    if len(data) > config.max_record_bytes:
        quarantine.add(name, "", f"longer than {config.max_record_bytes} bytes", data[:400])
        return None
    problem = not_text(data)
    if problem:
        quarantine.add(name, problem[1], problem[0], data)
        return None
    return plain_lines(data.decode("utf-8-sig"))


def plain_lines(text: str) -> str:
    """Text with "\\n" as its only line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


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
        return {"origin": source, **installed.package_facts(source)}
    return {}


def _chunks(piece: Piece, size: int, quarantine: Quarantine) -> Iterator[tuple[list[str], bool]]:
    """(pieces of text, whether they are the last) of a file of any length; it ends where it is no text."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest, position = "", 0
    with open_stream(piece.path) as file:
        while True:
            data = file.read(_CHUNK_BYTES)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                quarantine.add(piece.name, f"byte {position + error.start}", "not UTF-8", data)
                return
            if "\0" in text:
                quarantine.add(piece.name, f"byte {position + data.find(0)}", "binary (holds a NUL byte)", data)
                return
            position += len(data)
            rest = plain_lines(rest + text) if "\r" in text else rest + text
            if not data:
                yield list(_cut(rest, size)), True
                return
            parts = list(_cut(rest, size))
            rest = parts.pop()
            if parts:
                yield parts, False


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
