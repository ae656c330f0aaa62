"""Opening plain, gzip and zstd files as streams of bytes that never hold more than a buffer."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from foundling.corpus.documents import Quarantine

MAX_EXPANSION = 250  # text compresses 3 to 20 times; what expands more is a bomb or holds nothing
_FREE_BYTES = 64_000_000  # small files may expand as they like
# What the decompressors raise for damaged, truncated or mislabelled files.
BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException)


class TooLarge(OSError):
    """A compressed file grows beyond every text's ratio."""


class _Limited(io.RawIOBase):
    """Counts what a decompressor gives, and stops a bomb."""

    def __init__(self, inner: BinaryIO, most: int) -> None:
        self.inner, self.left = inner, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        data = self.inner.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise TooLarge(f"expands more than {MAX_EXPANSION} times")
        buffer[: len(data)] = data
        return len(data)


def is_compressed(name: str) -> bool:
    """Whether the name says gzip or zstd."""
    return name.lower().endswith((".gz", ".zst"))


@contextmanager
def open_stream(path: str) -> Iterator[BinaryIO]:
    """The file's content, decompressed as its name says. Reading may raise one of BROKEN."""
    if not is_compressed(path):
        with Path(path).open("rb") as plain:
            yield plain
        return
    most = max(MAX_EXPANSION * Path(path).stat().st_size, _FREE_BYTES)
    is_gzip = path.lower().endswith(".gz")
    with gzip.GzipFile(path) if is_gzip else pa.input_stream(path, compression="zstd") as inner:
        yield cast(BinaryIO, io.BufferedReader(_Limited(cast(BinaryIO, inner), most), 1 << 20))


@contextmanager
def broken_files_to(quarantine: Quarantine, name: str) -> Iterator[None]:
    """A file that breaks while it is read goes to the quarantine; what came before it stays."""
    try:
        yield
    except BROKEN as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        quarantine.add(name, "", f"cannot be read on: {message}")
