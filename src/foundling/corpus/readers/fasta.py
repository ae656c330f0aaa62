"""FASTA: proteins and nucleic acids, one document for each sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine, frame
from foundling.corpus.readers.streams import broken_files_to, open_stream

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece

_LETTERS = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz*-.")
_FRAME_CHARACTERS = 4_000_000


def read(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """Sequences as text, their headers as meta; line breaks inside a sequence go."""
    found: list[tuple[str, str]] = []
    size = 0
    with broken_files_to(quarantine, piece.name):
        for header, sequence in _sequences(piece, config, quarantine):
            found.append((header, sequence))
            size += len(sequence)
            if size > _FRAME_CHARACTERS:
                yield _frame(found, piece)
                found, size = [], 0
    yield _frame(found, piece)


def _frame(found: list[tuple[str, str]], piece: Piece) -> pl.DataFrame:
    metas = [{"path": piece.name, "name": header} for header, _ in found]
    return frame([sequence for _, sequence in found], piece.source, metas)


def _sequences(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[tuple[str, str]]:
    header, size, problem = "", 0, ""
    parts: list[bytes] = []
    with open_stream(piece.path) as file:
        while True:
            line = file.readline(config.max_record_bytes)
            if not line or line.startswith(b">"):
                if problem:
                    quarantine.add(piece.name, f"sequence {header!r}", problem)
                elif parts:
                    yield header, b"".join(parts).decode("ascii")
                if not line:
                    return
                header, parts, size, problem = line[1:].decode("utf-8", "replace").strip()[:200], [], 0, ""
                continue
            line = line.strip()
            size += len(line)
            if not _LETTERS.issuperset(line):
                problem = "not a sequence of letters"
            elif size > config.max_record_bytes:
                problem, parts = f"longer than {config.max_record_bytes} bytes", []
            elif not problem:
                parts.append(line)
