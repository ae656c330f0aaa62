"""The stage `corpus` on small files: what goes in comes out, or is counted under a reason."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError
from foundling.core.stages import Port, Stage, run_stage
from foundling.corpus import block
from foundling.corpus.config import CorpusConfig
from foundling.corpus.rules.config import Language, WebSignals

STAGE = Stage(
    "corpus",
    "corpus",
    1,
    "",
    "foundling.corpus.config:CorpusConfig",
    "foundling.corpus.build:build",
    outside="foundling.corpus.sources:outside",
)


def prose(n: int, seed: int = 0) -> str:
    """Sentences that no other seed shares."""
    return " ".join(f"Sentence {i} of text {seed} tells about thing{seed * 7919 + i * i} at length." for i in range(n))


def make(store: Path, items: tuple[str, ...] = (), **config: object) -> Artifact:
    made, _ = run_stage(Store(store), STAGE, CorpusConfig(**config), {}, {"held_out_prompts": lambda: list(items)})  # type: ignore[arg-type]
    return made


def texts(corpus: Artifact, split: str = "train") -> list[str]:
    return pl.read_parquet(corpus.file(f"{split}.parquet"))["text"].to_list()


def reasons(corpus: Artifact) -> dict[str, int]:
    return {
        reason: row["documents"]
        for reason, row in json.loads(corpus.file("report.json").read_text())["dropped"].items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    for number in range(12):
        (root / f"doc{number:02d}.txt").write_text(prose(20, number))
    return root


def test_every_document_is_kept_or_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.md").write_text(prose(20, 3))
    (folder / "near.md").write_text(prose(20, 4) + " One more sentence.")
    (folder / "tiny.txt").write_text("hello")
    (folder / "empty.py").write_text("\n")
    (folder / "made.py").write_text("# This file is generated. Do not edit.\n" + "value = compute()\n" * 50)
    (folder / "min.js").write_text("var a=1;" * 500)
    (folder / "numbers.py").write_text("0.25, 0.75,\n" * 50)
    (folder / "key.txt").write_text(prose(20, 50) + " token ghp_" + "a1B2" * 9)
    (folder / "leak.txt").write_text(
        prose(20, 51) + " what is the capital of the largest country in the whole world by area"
    )
    (folder / "binary.txt").write_bytes(b"\x00\x01" * 100)
    (folder / "latin.txt").write_bytes("naïve café ".encode("latin-1") * 50)
    corpus = make(
        tmp_path / "store", ("What is the capital of the largest country in the whole world, by area?",),
        data=(str(folder),), validation_bytes=2000,
    )  # fmt: skip
    assert reasons(corpus) == {
        "exact duplicate": 1,
        "near duplicate": 1,
        "too short": 1,
        "empty": 1,
        "code: generated": 1,
        "code: a very long line": 1,
        "code: few letters": 1,
        "secret": 1,
        "contaminated: holds an evaluation item": 1,
    }
    quarantined = [json.loads(line) for line in corpus.file("quarantine.jsonl").read_text().splitlines()]
    assert {q["file"]: q["reason"] for q in quarantined} == {
        "binary.txt": "binary (holds a NUL byte)",
        "latin.txt": "not UTF-8",
    }
    leak = pl.read_parquet(corpus.file("dropped.parquet")).filter(pl.col("reason").str.starts_with("contaminated"))
    assert leak["excerpt"][0].startswith("What is the capital")
    assert len(texts(corpus)) + len(texts(corpus, "validation")) == 12
    assert texts(corpus, "validation")
    report = json.loads(corpus.file("report.json").read_text())
    left = report["train"]["documents"] + report["validation"]["documents"]
    assert report["read"]["documents"] == left + sum(reasons(corpus).values())


def test_redaction_and_licences(folder: Path, tmp_path: Path) -> None:
    code = "#!/usr/bin/env python\n# Copyright 2020 Somebody\n# Licensed under the Foo License\n\nimport os\n"
    (folder / "code.py").write_text(
        code + "# mail jane.doe@somewhere.org, matrix a@b.T\n" + "print(os.getcwd())\n" * 10
    )
    corpus = make(tmp_path / "store", data=(str(folder),), validation_bytes=0)
    text = next(t for t in texts(corpus) if "getcwd" in t)
    assert text.startswith("\nimport os\n# mail email@example.com, matrix a@b.T\n")


def test_the_same_bytes_whatever_the_number_of_workers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a few hundred bytes, so that there are many."""
    monkeypatch.setattr("foundling.corpus.sources.BLOCK_BYTES", 3000)
    rows = [json.dumps({"text": prose(10, 100 + n), "n": n}) for n in range(30)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    digests = []
    for workers in (1, 4):
        corpus = make(tmp_path / f"store{workers}", data=(str(folder),), workers=workers)
        names = ("train.parquet", "validation.parquet", "dropped.parquet", "report.json", "quarantine.jsonl")
        digests.append([hashlib.sha256(corpus.file(n).read_bytes()).hexdigest() for n in names])
        assert len(texts(corpus)) + len(texts(corpus, "validation")) == 42
    assert digests[0] == digests[1]


def test_a_changed_file_makes_another_corpus(folder: Path, tmp_path: Path) -> None:
    first = make(tmp_path / "store", data=(str(folder),))
    assert make(tmp_path / "store", data=(str(folder),), workers=2).key == first.key
    (folder / "doc00.txt").write_text(prose(30, 0))
    assert make(tmp_path / "store", data=(str(folder),)).key != first.key


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": ("no/such/file.txt",)}, "no such file"),
        ({"data": ("{folder}/x.exe",)}, "no reader for '.exe' files"),
        ({"data": ("{folder}/empty.txt",)}, "1 empty"),
        ({"data": ("{folder}/binary.txt",)}, "binary"),
        ({"data": ("{folder}/doc*.txt",), "validation_source": "file:nowhere"}, "no source is 'file:nowhere'"),
        ({"data": ("{folder}/t.parquet",), "text_field": "txt"}, "Did you mean 'text'"),
        ({"data": ("{folder}/fake.parquet",)}, "cannot be read"),
    ],
)
def test_mistakes_are_explained(folder: Path, tmp_path: Path, config: dict[str, object], message: str) -> None:
    (folder / "x.exe").write_bytes(b"MZ")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(b"\x00" * 10)
    (folder / "fake.parquet").write_bytes(b"not a parquet file")
    pl.DataFrame({"text": ["a"], "n": [1]}).write_parquet(folder / "t.parquet")
    config = {**config, "data": tuple(d.format(folder=folder) for d in config["data"])}  # type: ignore[attr-defined]
    with pytest.raises(FoundlingError, match=message):
        make(tmp_path / "store", **config)


def test_broken_lines_are_quarantined_with_their_position(tmp_path: Path) -> None:
    good = json.dumps({"text": prose(10, 1), "lang": "en"})
    other = json.dumps({"text": prose(10, 2)})
    bad = [
        b"{broken",
        b"[1, 2]",
        b'{"txt": "x"}',
        b'{"text": 5}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"text": "\\ud800 x"}',
    ]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join([good.encode(), *bad, b"", other.encode()]))
    corpus = make(tmp_path / "store", data=(str(file),), validation_bytes=0)
    assert sorted(texts(corpus)) == sorted([prose(10, 1), prose(10, 2)])
    entries = [json.loads(line) for line in corpus.file("quarantine.jsonl").read_text().splitlines()]
    assert len(entries) == len(bad)
    assert entries[0]["position"] == f"byte {len(good) + 1}" and "not JSON" in entries[0]["reason"]
    meta = json.loads(pl.read_parquet(corpus.file("train.parquet"))["meta"][0])
    assert meta["lang"] == "en" and meta["path"] == "rows.jsonl"


def test_tables(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": [prose(10, n) for n in range(5)] + [None], "n": range(6)})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.head(5).select(pl.col("text") + " csv", "n").write_csv(tmp_path / "b.csv")
    frame.head(5).select(pl.col("text") + " ipc", "n").write_ipc(tmp_path / "c.arrow")
    with (tmp_path / "b.csv").open("a") as file:
        file.write("one,two,three\n")
    data = tuple(str(tmp_path / name) for name in ("a.parquet", "b.csv", "c.arrow"))
    corpus = make(tmp_path / "store", data=data, validation_bytes=0, near_duplicates=0)
    assert len(texts(corpus)) == 15
    entries = [json.loads(line) for line in corpus.file("quarantine.jsonl").read_text().splitlines()]
    assert [(e["file"], e["reason"]) for e in entries] == [
        ("a.parquet", "the text is null"),
        ("b.csv", "3 cells instead of 2"),
    ]


def test_a_long_text_becomes_pieces_that_join_to_it(tmp_path: Path) -> None:
    text = "\n\n".join(prose(20, n) for n in range(40))
    (tmp_path / "book.txt").write_text(text)
    corpus = make(tmp_path / "store", data=(str(tmp_path / "book.txt"),), piece_characters=5000, validation_bytes=0)
    assert "".join(texts(corpus)) == text
    assert max(map(len, texts(corpus))) <= 5000


def test_installed_python_is_the_same_twice_and_holds_no_tests() -> None:
    from foundling.corpus import installed

    files = installed.files(2_000_000)
    assert [name for _, _, name in files] == [name for _, _, name in installed.files(2_000_000)]
    assert {source for _, source, _ in files} == {installed.STANDARD_LIBRARY}
    assert not [name for _, _, name in installed.files() if "/tests/" in f"/{name}" or name.startswith("test/")]
    assert list(installed.documentation()) == list(installed.documentation())
    modules = [text for name, text in installed.documentation() if name.startswith("module:")]
    assert modules and not [text for text in modules if " at 0x" in text]


def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished blocks are kept, a half-written one is made anew."""
    monkeypatch.setattr("foundling.corpus.sources.BLOCK_BYTES", 3000)
    whole = make(tmp_path / "whole", data=(str(folder),), workers=1)
    signed = block.signatures
    calls = []

    def dies(words):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return signed(words)

    monkeypatch.setattr(block, "signatures", dies)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", data=(str(folder),), workers=1)
    done = len(list((tmp_path / "cut").rglob("block-*")))
    assert 2 <= done < 12
    resumed = make(tmp_path / "cut", data=(str(folder),), workers=1)
    for name in ("train.parquet", "validation.parquet", "dropped.parquet", "report.json", "report.html"):
        assert resumed.file(name).read_bytes() == whole.file(name).read_bytes()


def test_web_signals_and_language(tmp_path: Path) -> None:
    rows = [
        {"url": "https://good.org/a", "votes": 5, "license": "CC-BY-4.0"},
        {"url": "https://sub.bad.com:8080/a", "votes": 5, "license": "CC-BY-4.0"},
        {"url": "https://good.org/casino", "votes": 5, "license": "CC-BY-4.0"},
        {"url": "https://good.org/b", "votes": 1, "license": "CC-BY-4.0"},
        {"url": "https://good.org/c", "votes": 5, "license": "proprietary"},
        {"url": "https://good.org/d", "votes": 5},
        {"url": "https://good.org/e", "votes": 5, "license": "cc-by-4.0", "robots": "noindex, NOAI"},
    ]
    file = tmp_path / "pages.jsonl"
    lines = [
        json.dumps({"text": f"This is a plain English page about topic {n}. " * 5, **row}) for n, row in enumerate(rows)
    ]
    lines.append(json.dumps({"text": "Ceci est une page en français sur un sujet quelconque. " * 5, **rows[0]}))
    file.write_text("\n".join(lines))
    web = WebSignals(
        blocked_domains=("bad.com",), blocked_url_words=("casino",), min_votes=3, allowed_licences=("CC-BY-4.0",)
    )
    corpus = make(
        tmp_path / "store",
        data=(str(file),),
        validation_bytes=0,
        near_duplicates=0,
        web=web,
        language=Language(keep=("en",)),
    )
    assert reasons(corpus) == {
        "url: blocked domain": 1,
        "url: blocked word": 1,
        "votes: too few": 1,
        "licence: not allowed": 2,
        "robots: refused": 1,
        "language: another one": 1,
    }
    meta = json.loads(pl.read_parquet(corpus.file("train.parquet"))["meta"][0])
    assert meta["language"] == "en" and meta["language_score"] > 0.65
    assert json.loads(corpus.file("report.json").read_text())["languages"].keys() == {"en"}


def test_documents_of_an_earlier_corpus_go(folder: Path, tmp_path: Path) -> None:
    first = make(tmp_path / "store", data=(str(folder),), validation_bytes=2000)
    more = tmp_path / "more"
    more.mkdir()
    (more / "copy.txt").write_text(prose(20, 3))
    (more / "near.txt").write_text(prose(20, 4) + " One more sentence.")
    (more / "new.txt").write_text(prose(20, 99))
    second = make(tmp_path / "store", data=(str(more),), not_in=(str(first.path),), validation_bytes=0)
    assert texts(second) == [prose(20, 99)]
    assert reasons(second) == {"exact duplicate": 1, "near duplicate": 1}
    with pytest.raises(FoundlingError, match="is no corpus"):
        make(tmp_path / "store", data=(str(more),), not_in=(str(more),), validation_bytes=0)


def test_what_another_corpus_holds_out_is_left_out(folder: Path, tmp_path: Path) -> None:
    """Also with every filter off, and also what is only similar."""
    clean = make(tmp_path / "store", data=(str(folder),), validation_bytes=2000)
    held = texts(clean, "validation")
    (folder / "similar.txt").write_text(held[0][: len(held[0]) * 3 // 4] + prose(5, 77))
    (folder / "copy.txt").write_text(held[-1])
    stage = replace(STAGE, ports={"held_out": Port(("corpus",), "")})
    config = CorpusConfig(data=(str(folder),), near_duplicates=0, exact_duplicates=False, decontaminate=False)
    raw, _ = run_stage(Store(tmp_path / "store"), stage, config, {"held_out": clean})
    assert reasons(raw) == {"similar to a held-out document": len(held) + 2}
    assert sorted(texts(raw)) == sorted(texts(clean)) and texts(raw, "validation") == held
