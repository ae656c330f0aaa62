"""Web pages: HTML files, and the responses (WARC) or extracted texts (WET) of web archives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import polars as pl

from foundling.core.errors import FoundlingError
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine, frame
from foundling.corpus.readers.streams import BROKEN, open_stream

if TYPE_CHECKING:
    from foundling.corpus.sources import Piece

_FRAME_CHARACTERS = 4_000_000
_MAX_DEPTH = 50_000  # opened tags; deeper pages are attacks on parsers


def read_html(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """The main content of one page."""
    with open_stream(piece.path) as file:
        data = file.read(config.max_record_bytes + 1)
    if len(data) > config.max_record_bytes:
        quarantine.add(piece.name, "", f"longer than {config.max_record_bytes} bytes", data[:400])
        return
    text = main_content(data)
    if text is None:
        quarantine.add(piece.name, "", "no text in the page", data)
    else:
        yield frame([text], piece.source, [{"path": piece.name}])


def read_warc(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[pl.DataFrame]:
    """The HTML responses, and the plain-text conversions, of a web archive."""
    texts: list[str] = []
    metas: list[dict[str, Any]] = []
    size = 0
    for text, meta in _records(piece, config, quarantine):
        texts.append(text)
        metas.append(meta)
        size += len(text)
        if size > _FRAME_CHARACTERS:
            yield frame(texts, piece.source, metas)
            texts, metas, size = [], [], 0
    yield frame(texts, piece.source, metas)


def main_content(data: bytes, encoding: str | None = None) -> str | None:
    """A page's main text by `resiliparse`, or None if there is none."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    except ImportError:
        raise _missing("resiliparse") from None
    if data.count(b"<") > _MAX_DEPTH and data.count(b"</") * 4 < data.count(b"<"):
        return None
    try:  # nearly every page is UTF-8, and Python decodes it fastest
        page = data.decode(encoding or "utf-8")
    except (UnicodeDecodeError, LookupError):
        page = bytes_to_str(data, detect_encoding(data) or "utf-8")
    return extract_plain_text(page, main_content=True, preserve_formatting=True).replace("\0", "") or None


def _records(piece: Piece, config: CorpusConfig, quarantine: Quarantine) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError:
        raise _missing("fastwarc") from None
    wanted = WarcRecordType.response | WarcRecordType.conversion
    count = 0
    try:
        for record in ArchiveIterator(piece.path, record_types=wanted, parse_http=True, auto_decode="all"):
            count += 1
            place = f"record at byte {record.stream_pos}"
            if record.content_length > config.max_record_bytes:
                quarantine.add(piece.name, place, f"longer than {config.max_record_bytes} bytes")
                continue
            found = _text_of(record, config.max_record_bytes)
            if isinstance(found, str):
                yield found, _meta_of(record, piece)
            else:
                quarantine.add(piece.name, place, found[0])
    except BROKEN as error:
        quarantine.add(piece.name, f"after record {count}", f"cannot be read on: {error}")
    if count == 0:
        quarantine.add(piece.name, "", "no page in the archive")


def _text_of(record: Any, limit: int) -> str | tuple[str]:
    """A record's text, or the reason why it has none, as a tuple."""
    from fastwarc.warc import WarcRecordType

    if record.record_type == WarcRecordType.conversion:
        try:
            return record.reader.read(limit).decode("utf-8")
        except UnicodeDecodeError:
            return ("not UTF-8",)
    if record.http_headers is None:
        return ("no HTTP headers",)
    if record.http_headers.status_code != 200 or "html" not in (record.http_content_type or ""):
        return ("no HTML page",)
    return main_content(record.reader.read(limit), record.http_charset) or ("no text in the page",)


def _meta_of(record: Any, piece: Piece) -> dict[str, Any]:
    found = {"path": piece.name, "url": record.headers.get("WARC-Target-URI", "").strip("<>")}
    if record.http_headers is not None and record.http_headers.get("X-Robots-Tag"):
        found["robots"] = record.http_headers.get("X-Robots-Tag")
    return found


def _missing(package: str) -> FoundlingError:
    return FoundlingError(f"web pages need {package}", "it is not installed", 'Run: pip install "foundling[web]"')
