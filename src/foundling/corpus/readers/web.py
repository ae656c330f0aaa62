"""Web pages: HTML files, and the responses (WARC) or extracted texts (WET) of web archives."""

from __future__ import annotations

import re
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
_HEAD_BYTES = 65_536
# Bounded repetitions: on a page without a ">" each search ends soon.
_META = re.compile(rb"""(?i)<meta\s+name=["']?(robots|tdm-reservation)["']?\s+content=["']?([^"'>]{0,300})""")
_META_REVERSED = re.compile(rb"""(?i)<meta\s+content=["']?([^"'>]{0,300})["']?\s+name=["']?(robots|tdm-reservation)""")
_LICENCE = re.compile(
    rb"""(?i)<(?:a|link)\s(?:[^>]{0,300}?rel=["']?license["']?\s[^>]{0,300}?href=["']([^"']{1,300})"""
    rb"""|[^>]{0,300}?href=["']([^"']{1,300})["'][^>]{0,300}?rel=["']?license)"""
)
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
        yield frame([text], piece.source, [{"path": piece.name, **signals(data)}])


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


def signals(data: bytes) -> dict[str, str]:
    """What a page says about its use: `robots` directives, `license` (rel="license"), `terms` (TDM reservation)."""
    head = data[:_HEAD_BYTES]
    found: dict[str, str] = {}
    named = {name.lower(): content.decode("utf-8", "replace") for name, content in _META.findall(head)}
    named |= {name.lower(): content.decode("utf-8", "replace") for content, name in _META_REVERSED.findall(head)}
    if b"robots" in named:
        found["robots"] = named[b"robots"]
    if named.get(b"tdm-reservation", "").strip() == "1":
        found["terms"] = "tdm-reserved"
    licence = _LICENCE.search(data) if b"license" in data else None
    if licence:
        found["license"] = (licence[1] or licence[2]).decode("utf-8", "replace")
    return found


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
            text, said = _text_of(record, config.max_record_bytes)
            if text is not None:
                header = _meta_of(record, piece)
                both = ", ".join(part for part in (header.get("robots"), said.get("robots")) if part)
                yield text, header | said | ({"robots": both} if both else {})
            else:
                quarantine.add(piece.name, place, said["reason"])
    except BROKEN as error:
        quarantine.add(piece.name, f"after record {count}", f"cannot be read on: {error}")
    if count == 0:
        quarantine.add(piece.name, "", "no page in the archive")


def _text_of(record: Any, limit: int) -> tuple[str | None, dict[str, str]]:
    """(a record's text, what the page says of its use), or (None, the reason why it has none)."""
    from fastwarc.warc import WarcRecordType

    is_text = record.record_type == WarcRecordType.conversion
    if not is_text and record.http_headers is None:
        return None, {"reason": "no HTTP headers"}
    if not is_text and (record.http_headers.status_code != 200 or "html" not in (record.http_content_type or "")):
        return None, {"reason": "no HTML page"}
    data = record.reader.read(limit + 1)
    if len(data) > limit:  # what was compressed within its limit can expand beyond it
        return None, {"reason": f"longer than {limit} bytes"}
    if not is_text:
        text = main_content(data, record.http_charset)
        return text, signals(data) if text else {"reason": "no text in the page"}
    try:
        return data.decode("utf-8"), {}
    except UnicodeDecodeError:
        return None, {"reason": "not UTF-8"}


def _meta_of(record: Any, piece: Piece) -> dict[str, Any]:
    found = {"path": piece.name, "url": record.headers.get("WARC-Target-URI", "").strip("<>")}
    if record.http_headers is not None and record.http_headers.get("X-Robots-Tag"):
        found["robots"] = record.http_headers.get("X-Robots-Tag")
    if record.http_headers is not None and record.http_headers.get("TDM-Reservation", "").strip() == "1":
        found["terms"] = "tdm-reserved"
    return found


def _missing(package: str) -> FoundlingError:
    return FoundlingError(f"web pages need {package}", "it is not installed", 'Run: pip install "foundling[web]"')
