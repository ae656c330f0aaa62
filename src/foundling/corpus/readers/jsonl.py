"""JSON lines: one object a line, the text in one field, the rest kept as meta."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine, frame
from foundling.corpus.readers.streams import broken_files_to, open_stream

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_FRAME_CHARACTERS = 8_000_000
_MAX_META_CHARACTERS = 2000
CHAT_FIELDS = ("messages", "conversations")


def read(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """The lines that begin in bytes [start, end) of the file."""
    with broken_files_to(quarantine, piece.name), open_stream(piece.path) as file:
        yield from read_lines(_lines(file, piece.start, piece.end, config.max_record_bytes), piece, config, quarantine)


def read_lines(
    lines: Iterator[tuple[int, bytes | None]], piece: Piece, config: CorpusConfig, quarantine: Quarantine
) -> Iterator[pl.DataFrame]:
    """Frames from (byte offset, line) pairs; a line that is None was too long."""
    texts: list[str] = []
    metas: list[dict[str, Any]] = []
    size = 0
    for offset, line in lines:
        if line is not None and not line.strip():
            continue
        row = _parse(line, config) if line is not None else f"longer than {config.max_record_bytes} bytes"
        if isinstance(row, str):
            quarantine.add(piece.name, f"byte {offset}", row, line or b"")
            continue
        text, meta = row
        texts.append(text)
        metas.append({"path": piece.name, **meta})
        size += len(text)
        if size > _FRAME_CHARACTERS:
            yield frame(texts, piece.source, metas)
            texts, metas, size = [], [], 0
    if texts:
        yield frame(texts, piece.source, metas)


def _lines(file: BinaryIO, start: int, end: int | None, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line) of the lines that begin in [start, end); None for one longer than `longest`."""
    offset = start
    if start:
        file.seek(start - 1)
        offset = start - 1 + _skip_line(file, longest, end and end - start + 1)
    while end is None or offset < end:
        line = file.readline(longest + 1)
        if not line:
            return
        too_long = len(line) > longest and not line.endswith(b"\n")
        yield offset, None if too_long else line
        offset += len(line)
        if too_long:
            offset += _skip_line(file, longest, end and end - offset)


def _skip_line(file: BinaryIO, longest: int, enough: int | None) -> int:
    """Read to the end of the line, or until `enough` bytes show that no line begins in this part of the file.

    Returns how many bytes that was.
    """
    skipped = 0
    while (enough is None or skipped < enough) and (part := file.readline(longest)):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _parse(line: bytes, config: CorpusConfig) -> tuple[str, dict[str, Any]] | str:
    """(text, meta), or the reason why the line is no document."""
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        return "not UTF-8"
    except RecursionError:
        return "JSON nested too deeply"
    except ValueError as error:
        return f"not JSON: {error.msg if isinstance(error, json.JSONDecodeError) else error}"
    return pick_text(row, config)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")  # which of the two texts is meant, nobody knows
    return found


def pick_text(row: Any, config: CorpusConfig) -> tuple[str, dict[str, Any]] | str:
    """(text, meta) of a parsed row, or the reason why it is no document."""
    if not isinstance(row, dict):
        return "not a JSON object"
    text = row.get(config.text_field)
    if text is None and config.text_field not in row:
        text = dialogue(row)
    if not isinstance(text, str):
        kind = f"field {config.text_field!r} is {type(text).__name__}"
        return kind if config.text_field in row else f"no field {config.text_field!r}"
    if not text.isascii() and _LONE_SURROGATE.search(text):
        return "not UTF-8: a lone surrogate"
    if "\0" in text:
        return "binary (holds a NUL byte)"
    rest = {key: value for key, value in row.items() if key != config.text_field and _is_plain(value)}
    return text, rest


def dialogue(row: dict[str, Any]) -> str | None:
    """A chat log (OpenAI's `messages` or ShareGPT's `conversations`) as "role: words" paragraphs, or None."""
    turns = next((row[name] for name in CHAT_FIELDS if row.get(name)), None)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    said = [(turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")) for turn in turns]
    if not all(isinstance(part, str) for pair in said for part in pair):
        return None
    return "\n\n".join(f"{role}: {words}" for role, words in said)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, bool)) or (isinstance(value, str) and len(value) < _MAX_META_CHARACTERS)
