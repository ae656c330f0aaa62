"""Damaged, mislabelled and hostile files end in quarantine with a reason: no crash, no hang, bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.core.errors import FoundlingError
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine
from foundling.corpus.readers import jsonl, registry, tables
from foundling.corpus.sources import Piece

CONFIG = CorpusConfig(max_record_bytes=100_000)
GOOD = [json.dumps({"text": f"document {n}"}) for n in range(200)]


def read(path: Path, config: CorpusConfig = CONFIG) -> tuple[list[str], list[tuple[str, str]]]:
    """(texts, (position, reason) pairs) of one file."""
    quarantine = Quarantine()
    piece = Piece(str(path), path.name, "file", registry.reader_for(path))
    frames = list(registry.load(piece.reader)(piece, config, quarantine))
    texts = [text for frame in frames for text in frame["text"]]
    return texts, [(e["position"], e["reason"]) for e in quarantine.entries]


def packed(data: bytes) -> dict[str, bytes]:
    return {".gz": gzip.compress(data), ".zst": pa.compress(data, codec="zstd", asbytes=True)}


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(packed("\n".join(GOOD).encode())[ending])
    assert read(path) == ([f"document {n}" for n in range(200)], [])
    text = tmp_path / f"book.txt{ending}"
    text.write_bytes(packed(b"a book\n\n" * 10)[ending])
    assert read(text)[0] == ["a book\n\n" * 10]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_truncated_and_mislabelled_files(tmp_path: Path, ending: str) -> None:
    """What could be read stays; the rest is one entry in the quarantine."""
    path = tmp_path / f"rows.jsonl{ending}"
    data = packed("\n".join(json.dumps({"text": os.urandom(300).hex()}) for _ in range(900)).encode())[ending]
    path.write_bytes(data[: len(data) // 2])
    texts, broken = read(path)
    assert len(texts) < 900 and any("cannot be read on" in reason for _, reason in broken)
    path.write_bytes(b"this is not compressed at all")
    assert read(path)[0] == [] and "cannot be read on" in read(path)[1][0][1]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_bomb_stops(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundling.corpus.readers.streams._FREE_BYTES", 1_000_000)
    path = tmp_path / f"bomb.jsonl{ending}"
    path.write_bytes(packed(b" " * 60_000_000)[ending])
    texts, broken = read(path)
    assert texts == [] and "expands more than" in broken[-1][1]
    path = tmp_path / f"bomb.txt{ending}"
    path.write_bytes(packed(b"\n" * 60_000_000)[ending])
    assert "expands more than" in read(path)[1][-1][1]


def test_one_endless_line_needs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "line.jsonl"
    with path.open("wb") as file:
        file.truncate(300_000_000)  # a hole: 300 MB of NUL bytes without a line break
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read(path)[1] == [("byte 0", "longer than 100000 bytes")]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    text = tmp_path / "line.txt"
    text.write_bytes(b"x" * 9_000_000)
    texts, broken = read(text)
    assert "".join(texts) == "x" * 9_000_000 and max(map(len, texts)) <= CONFIG.piece_characters and broken == []


def test_a_part_of_an_endless_line_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Else a file of one line, cut into n blocks, would be read n / 2 times."""
    path = tmp_path / "line.jsonl"
    path.write_bytes(b"x" * 100_000 + b'\n{"text": "last"}\n')
    with path.open("rb") as file:
        assert list(jsonl._lines(file, 20_000, 40_000, 1000)) == [] and file.tell() <= 41_000
    with path.open("rb") as file:
        assert list(jsonl._lines(file, 0, 20_000, 1000)) == [(0, None)] and file.tell() <= 21_001
    with path.open("rb") as file:
        assert list(jsonl._lines(file, 90_000, 110_000, 1000)) == [(100_001, b'{"text": "last"}\n')]
    with path.open("rb") as file:
        assert list(jsonl._lines(file, 100_001, 110_000, 1000)) == [(100_001, b'{"text": "last"}\n')]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 90_000, "JSON nested too deeply"),
        (b'{"text": "a", "text": "b"}', "not JSON: a key occurs twice"),
        (b'{"text": "a"', "not JSON: Expecting ',' delimiter"),
        (b'{"text": null}', "field 'text' is NoneType"),
        (b'{"text": "' + b"x" * 100_001 + b'"}', "longer than 100000 bytes"),
        (b"NaN", "not a JSON object"),
        (b"1" * 5000, "not JSON: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"),
    ],
)
def test_broken_lines(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD[0].encode() + b"\n" + line + b"\n" + GOOD[1].encode())
    texts, broken = read(path)
    assert texts == ["document 0", "document 1"]
    assert [r.split(";")[0] for _, r in broken] == [reason]


@given(data=st.binary(max_size=400), ending=st.sampled_from([*registry.endings(), ".jsonl.gz", ".txt.zst"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_under_any_name(tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"file{ending}"
    path.write_bytes(data)
    try:
        texts, broken = read(path)
    except FoundlingError as error:  # a table without a column "text": the user named the wrong one
        assert "column 'text'" in str(error)
        return
    assert all(isinstance(text, str) and "\0" not in text for text in texts)
    assert all(reason for _, reason in broken)


@given(cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
@settings(max_examples=100, deadline=None)
def test_damaged_tables(tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]) -> None:
    """A Parquet file with bytes cut off or changed."""
    buffer = io.BytesIO()
    pl.DataFrame({"text": [f"text {n}" for n in range(50)]}).write_parquet(buffer)
    data = bytearray(buffer.getvalue())
    for place, value in flips:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("fuzz") / "table.parquet"
    path.write_bytes(bytes(data[: max(len(data) - cut, 0)]))
    read(path)


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_few_bytes_of_a_table_that_are_many_rows(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a text that a dictionary holds once, unpacked for all its rows together."""
    monkeypatch.setattr(tables, "_BYTES", 50_000)
    rows = pa.array([n % 3 if n % 7 else None for n in range(900)], pa.int32())
    texts = pa.DictionaryArray.from_arrays(rows, pa.array([letter * 9_000 for letter in "xyz"]))
    table, path = pa.table({"text": texts, "n": range(900)}), tmp_path / f"table{ending}"
    if ending == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    quarantine = Quarantine()
    piece = Piece(str(path), path.name, "file", registry.reader_for(path))
    frames = list(registry.load(piece.reader)(piece, CONFIG, quarantine))
    assert max(frame["text"].str.len_bytes().sum() for frame in frames) <= 2 * 50_000
    found = [(text[0], json.loads(meta)["n"]) for frame in frames for text, meta in frame.select("text", "meta").rows()]
    assert found == [("xyz"[n % 3], n) for n in range(900) if n % 7]
    assert [e["position"] for e in quarantine.entries[:2]] == ["row 0", "row 7"]
    assert sum(quarantine.counts.values()) == 129


def test_chat_logs_and_sequences(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"conversations": [{"from": "human", "value": "hi"}]},
        {"messages": [{"role": "user", "content": 5}]},
    ]
    chat = tmp_path / "chat.jsonl"
    chat.write_text("\n".join(map(json.dumps, rows)))
    assert read(chat)[0] == ["user: hi\n\nassistant: hello", "human: hi"]
    assert len(read(chat)[1]) == 1
    fasta = tmp_path / "proteins.fasta"
    fasta.write_text(">one first\nMKT\nLLV\n>two\n12345\n>three\nAAA\n")
    assert read(fasta) == (["MKTLLV", "AAA"], [("sequence 'two'", "not a sequence of letters")])


def test_web_pages(tmp_path: Path) -> None:
    pytest.importorskip("resiliparse")
    page = tmp_path / "page.html"
    page.write_text("<html><body><nav>Menu</nav><main><p>The text of the page.</p></main></body></html>")
    assert read(page)[0] == ["The text of the page."]
    page.write_bytes(b"<div>" * 100_000)
    assert read(page, CorpusConfig())[0] == []


@pytest.mark.skipif("FOUNDLING_DATA" not in os.environ, reason="needs FOUNDLING_DATA")
def test_web_archives_good_and_damaged(tmp_path: Path) -> None:
    pytest.importorskip("fastwarc")
    found = {}
    with zipfile.ZipFile(Path(os.environ["FOUNDLING_DATA"]) / "web" / "warcio_samples.zip") as archive:
        for name in archive.namelist():
            path = tmp_path / name
            path.write_bytes(archive.read(name))
            if path.suffix in (".warc", ".gz") and ".warc" in name:
                found[name] = read(path, CorpusConfig())
    assert all(texts or broken for texts, broken in found.values())
    assert "Example Domain" in found["example.warc.gz"][0][0]
    assert found["example.warc"][0] == found["example.warc.gz"][0]
