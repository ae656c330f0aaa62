"""From what the user names (files, folders, globs) to pieces of work of even size, in a fixed order."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.core.files import sha256_file, sha256_tree
from foundling.corpus import installed
from foundling.corpus.config import INSTALLED_PYTHON, CorpusConfig
from foundling.corpus.readers import hub, registry
from foundling.models.locate import locate

BLOCK_BYTES = 8_000_000


@dataclass(frozen=True)
class Piece:
    """A file, or bytes [start, end) of one that can be cut (`end` None: all of it)."""

    path: str
    name: str
    source: str
    reader: str
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Block:
    """What one worker reads at a time. The blocks, and so the results, do not depend on the number of workers."""

    number: int
    pieces: tuple[Piece, ...]


def outside(config: CorpusConfig) -> dict[str, str]:
    """Content hashes of everything that `config.data` names: part of the artifact's key."""
    named = [*config.data]
    named += config.quality.good if config.quality else ()
    named += config.perplexity.reference if config.perplexity else ()
    named += config.evaluation_sets
    named += [config.web.robots_txt] if config.web and config.web.robots_txt else []
    found = {entry: _fingerprint(entry, config) for entry in named}
    if config.perplexity and config.perplexity.model:
        found["perplexity.model"] = sha256_tree(scoring_model(config.perplexity.model))
    return found | {f"not in {folder}": sha256_tree(Path(folder).expanduser()) for folder in config.not_in}


def scoring_model(spec: str) -> Path:
    """The directory of the model of a perplexity filter: given as such, a package or a hub id."""
    path = Path(spec).expanduser()
    return path if path.is_dir() else locate(spec)


def blocks(config: CorpusConfig) -> list[Block]:
    """The work of a corpus stage.

    Raises:
        FoundlingError: an entry names nothing, or files of a kind that no reader knows.
    """
    made: list[Block] = []
    waiting: list[Piece] = []
    size = 0
    for piece, n_bytes in _pieces(config):
        if waiting and size + n_bytes > BLOCK_BYTES:
            made.append(Block(len(made), tuple(waiting)))
            waiting, size = [], 0
        waiting.append(piece)
        size += n_bytes
    return [*made, Block(len(made), tuple(waiting))] if waiting else made


def _pieces(config: CorpusConfig) -> Iterator[tuple[Piece, int]]:
    for entry in config.data:
        if entry == INSTALLED_PYTHON:
            for path, source, name in installed.files(config.max_bytes):
                yield Piece(str(path), name, source, "text"), path.stat().st_size
            yield Piece("", "documentation", installed.DOCUMENTATION, "documentation"), 0
            continue
        for path, name in find(entry):
            reader = "jsonl" if entry.startswith(hub.PREFIX) and path.suffix == ".json" else registry.reader_for(path)
            size = path.stat().st_size
            can_cut = registry.can_cut(reader, path)
            for start in range(0, max(size, 1), BLOCK_BYTES) if can_cut else [0]:
                end = min(start + BLOCK_BYTES, size) if can_cut else None
                source = entry if entry.startswith(hub.PREFIX) else f"file:{name}"
                yield Piece(str(path), name, source, reader, start, end), (end or size) - start


def text_bytes(config: CorpusConfig) -> int:
    """Bytes of the files that `config.data` names, as they lie on disk. Raises as `blocks` does."""
    return sum(n_bytes for _, n_bytes in _pieces(config))


def find(entry: str) -> list[tuple[Path, str]]:
    """Files of one entry with the names they go by: the file's name, or its path inside the named folder.

    Raises:
        FoundlingError: there are none.
    """
    if entry.startswith(hub.PREFIX):
        return hub.files(entry)
    path = Path(entry).expanduser()
    if path.is_file():
        return [(path, path.name)]
    if path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and registry.known(p) and not _hidden(p, path)]
        named = [(p, p.relative_to(path).as_posix()) for p in found]
    else:
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        named = [(Path(p), Path(p).name) for p in matches if Path(p).is_file()]
    if not named:
        known = f"known endings: {', '.join(registry.endings())}"
        what = f"data {entry!r} names no file that can be read"
        raise FoundlingError(what, known if path.exists() else "there is no such file, folder or glob match")
    return sorted(named, key=lambda item: (item[1], str(item[0])))


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)


def _fingerprint(entry: str, config: CorpusConfig) -> str:
    if entry == INSTALLED_PYTHON:
        return _installed_fingerprint(config.max_bytes)
    digest = hashlib.sha256()
    for path, name in find(entry):
        digest.update(f"{name}\0{sha256_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


@cache  # a recipe may name it often, and a plan must answer at once
def _installed_fingerprint(max_bytes: int | None) -> str:
    digest = hashlib.sha256()
    for path, _, name in installed.files(max_bytes):
        digest.update(f"{name}\0{sha256_file(path)}\n".encode())
    for name, text in installed.documentation():
        digest.update(f"{name}\0{text}\0".encode())
    return f"sha256:{digest.hexdigest()}"
