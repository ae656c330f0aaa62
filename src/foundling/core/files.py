"""Files that are either whole or absent: atomic writes, hashes, locks that say who holds them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(root: Path) -> str:
    """Hex SHA-256 of a file, or of every file under a directory with its relative name."""
    if root.is_file():
        return sha256_file(root)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` with `text`: a reader, or a crash at any moment, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_jsonl(path: Path) -> list[Any]:
    """The values of a JSON-lines file.

    Only line feeds end a line: texts inside may hold other breaks (U+2028, U+0085), at which `splitlines` would cut.
    """
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, sorted and indented so that equal data are equal bytes."""
    write_atomic(path, json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def sync_directory(path: Path) -> None:
    """Make renames inside a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Flush every file and directory below `root` to disk."""
    for path in root.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(root)


@contextlib.contextmanager
def locked(path: Path, purpose: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on `path`; yields whether it is held.

    The lock is the operating system's, so it is freed when the holder dies, however it dies. The holder may delete the
    file: whoever waited for it then takes the lock on a new one.

    Args:
        purpose: what it is for, told to those who wait.
        wait: wait, saying who holds it, if another process does; False: yield False at once.
    """
    descriptor = _acquire(path, purpose, wait)
    try:
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _acquire(path: Path, purpose: str, wait: bool) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(descriptor)
                return None
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "another process"
            print(f"Waiting for {purpose}: {holder} is working on it.", file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)  # its holder has deleted it
