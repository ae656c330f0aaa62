"""Which reader a file needs, by the ending of its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from foundling.core.errors import FoundlingError, nearest
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine
from foundling.corpus.readers.streams import is_compressed

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece

Reader = Callable[["Piece", CorpusConfig, Quarantine], Iterator[pl.DataFrame]]

_PLAIN = ".txt .text .md .markdown .rst .tex"
_CODE = (
    ".py .pyi .pyx .c .h .cc .cpp .hpp .cu .rs .go .java .js .jsx .ts .tsx .rb .php .swift .kt .scala .sh .sql .r .jl"
)
_CODE += " .lua .pl .hs .ml .cs .m .f90 .css .toml .yaml .yml"
_ENDINGS = {
    **dict.fromkeys(_PLAIN.split(), "plain"),
    **dict.fromkeys(_CODE.split(), "text"),
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".warc": "warc",
    ".wet": "warc",
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fna"), "fasta"),
}
_MODULES = {
    "plain": "text:read_plain",
    "text": "text:read_source",
    "documentation": "text:read_documentation",
    "jsonl": "jsonl:read",
    "parquet": "tables:read_parquet",
    "csv": "tables:read_csv",
    "arrow": "tables:read_arrow",
    "warc": "web:read_warc",
    "html": "web:read_html",
    "fasta": "fasta:read",
}
_CAN_CUT = {"jsonl"}  # readers that can start in the middle of a file that is not compressed
_SELF_CONTAINED = {"parquet", "arrow"}  # formats with compression of their own


def endings() -> list[str]:
    """All known endings."""
    return sorted(_ENDINGS)


def known(path: Path) -> bool:
    """Whether a file in a folder is one to read."""
    return _ending(path) in _ENDINGS


def reader_for(path: Path) -> str:
    """The name of the reader for a file. Raises FoundlingError if none knows its ending."""
    ending = _ending(path)
    if ending not in _ENDINGS:
        what = f"{path}: no reader for {ending!r} files" if ending else f"{path}: a file name without an ending"
        raise FoundlingError(what, f"known endings: {', '.join(endings())}", nearest(ending, endings()))
    reader = _ENDINGS[ending]
    if is_compressed(path.name) and reader in _SELF_CONTAINED:
        raise FoundlingError(f"{path}: a compressed {ending} file", "that format compresses by itself", "Unpack it")
    return reader


def can_cut(reader: str, path: Path) -> bool:
    """Whether the reader takes a part of the file."""
    return reader in _CAN_CUT and not is_compressed(path.name)


def _ending(path: Path) -> str:
    """The ending that says what is inside: ".jsonl" of "a.jsonl.gz"."""
    inner = path.with_suffix("") if is_compressed(path.name) else path
    return inner.suffix.lower()


def load(reader: str) -> Reader:
    """The reader's function."""
    module, _, name = _MODULES[reader].partition(":")
    found: Reader = getattr(importlib.import_module(f"foundling.corpus.readers.{module}"), name)
    return found
