"""Hugging Face datasets from a folder or the hub, chat columns, and what web pages say about their use."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from tests.unit.corpus.test_corpus_stage import make, prose, reasons, texts
from tests.unit.corpus.test_hostile_inputs import read

from foundling.core.errors import FoundlingError
from foundling.corpus.config import CorpusConfig
from foundling.corpus.readers import hub
from foundling.corpus.readers.web import signals
from foundling.corpus.rules.config import WebSignals


def names(entry: str) -> list[str]:
    return [name for _, name in hub.files(entry)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A dataset's repository as the hub lays it out."""
    root = tmp_path / "clone"
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"):
        path = root / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"text": [prose(10, len(name) + n) for n in range(3)]}).write_parquet(path)
    (root / "README.md").write_text("# A dataset\n")
    return root


def test_splits_by_file_name(clone: Path) -> None:
    assert names(f"hf:{clone}") == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert names(f"hf:{clone}?split=test") == ["data/test-00000-of-00001.parquet"]
    with pytest.raises(FoundlingError, match=r"no split 'validation'\. Its files name: test, train"):
        hub.files(f"hf:{clone}?split=validation")
    with pytest.raises(FoundlingError, match="Did you mean 'split'"):
        hub.files(f"hf:{clone}?splt=test")


def test_configurations_of_the_card(clone: Path) -> None:
    card = {"configs": [
        {"config_name": "en", "data_files": [{"split": "train", "path": "data/train-*0-of*"}]},
        {"config_name": "de", "default": True, "data_files": [{"split": "train", "path": ["data/train-*1-of*"]}]},
    ]}  # fmt: skip
    (clone / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n# A dataset\n")
    assert names(f"hf:{clone}") == ["data/train-00001-of-00002.parquet"]
    assert names(f"hf:{clone}?config=en") == ["data/train-00000-of-00002.parquet"]
    with pytest.raises(FoundlingError, match="There are: en, de"):
        hub.files(f"hf:{clone}?config=fr")


def test_what_the_datasets_library_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": [prose(10, n) for n in range(5)], "n": list(range(5))})
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(str(tmp_path / "both"))
    one = make(tmp_path / "s", data=(f"hf:{tmp_path / 'one'}",), validation_bytes=0)
    assert texts(one) == [prose(10, n) for n in range(5)]
    assert json.loads(pl.read_parquet(one.file("train.parquet"))["meta"][3])["n"] == 3
    test = make(tmp_path / "s", data=(f"hf:{tmp_path / 'both'}?split=test",), validation_bytes=0)
    assert texts(test) == [prose(10, 0)]


def test_a_dataset_of_the_hub(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download itself is huggingface_hub's; what is asked of it, and what becomes of it, is ours."""
    asked = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(clone)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    corpus = make(tmp_path / "s", data=("hf:somebody/texts?revision=v2",), validation_bytes=0)
    assert len(texts(corpus)) == 3  # both files hold the same three
    assert asked["name"] == "somebody/texts" and asked["revision"] == "v2" and asked["repo_type"] == "dataset"
    assert set(pl.read_parquet(corpus.file("train.parquet"))["source"]) == {"hf:somebody/texts?revision=v2"}


def test_chat_columns_of_tables(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    pl.DataFrame({"messages": [turns, None], "n": [1, 2]}).write_parquet(tmp_path / "chats.parquet")
    assert read(tmp_path / "chats.parquet") == (["user: hi\n\nassistant: hello"], [("row 1", "the text is null")])


def test_a_table_whose_rows_are_too_long(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["short", "x" * 100_001, "a\0b", None]}).write_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == (
        ["short"],
        [("row 1", "longer than 100000 bytes"), ("row 2", "binary (holds a NUL byte)"), ("row 3", "the text is null")],
    )


def test_tables_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_bytes(b"text,\x9d\na,b\n")
    assert read(tmp_path / "names.csv")[0] == [] and "cannot be read on" in read(tmp_path / "names.csv")[1][0][1]
    (tmp_path / "rows.csv").write_bytes(b"text,n\ngood,1\n\xff\xfe,2\n")
    assert read(tmp_path / "rows.csv") == (["good"], [("row 1", "not UTF-8")])


def test_what_a_page_says_about_its_use() -> None:
    page = b'<head><meta name="robots" content="noindex, noai"><META content="1" name="tdm-reservation"></head>'
    page += b'<a class="x" rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC</a>'
    assert signals(page) == {
        "robots": "noindex, noai",
        "terms": "tdm-reserved",
        "license": "https://creativecommons.org/licenses/by/4.0/",
    }
    assert signals(b'<link href="/l" rel="license"> <meta name="tdm-reservation" content="0">') == {"license": "/l"}
    assert signals(b"<p>a page</p>") == {}
    assert signals(b"<a license " * 100_000) == {}  # in a moment


def test_terms_and_robots_txt(tmp_path: Path) -> None:
    rows = [
        {"url": "https://open.org/a"},
        {"url": "https://reserved.org/a", "terms": "tdm-reserved"},
        {"url": "https://closed.org/a"},
        {"url": "https://closed.org/public/a"},
    ]
    lines = [json.dumps({"text": prose(8, n), **row}) for n, row in enumerate(rows)]
    (tmp_path / "pages.jsonl").write_text("\n".join(lines))
    robots = tmp_path / "robots.jsonl.gz"
    text = "User-agent: GPTBot\nAllow: /public/\nDisallow: /\n\nUser-agent: *\nDisallow:\n"
    robots.write_bytes(gzip.compress(json.dumps({"host": "closed.org", "robots": text}).encode()))
    web = WebSignals(robots_txt=str(robots))
    corpus = make(tmp_path / "s", data=(str(tmp_path / "pages.jsonl"),), validation_bytes=0, web=web)
    assert reasons(corpus) == {"terms: refused": 1, "robots.txt: forbidden": 1}
    report = json.loads(corpus.file("report.json").read_text())
    assert set(report["domains"]) == {"open.org", "closed.org"}
    others = WebSignals(robots_txt=str(robots), robots_agents=("OtherBot",))
    config = {"data": (str(tmp_path / "pages.jsonl"),), "validation_bytes": 0, "web": others}
    assert reasons(make(tmp_path / "s", **config)) == {"terms: refused": 1}
    robots.write_bytes(gzip.compress(b'{"host": 5}'))
    with pytest.raises(FoundlingError, match="line 1 of robots"):
        make(tmp_path / "s", **config)
    assert CorpusConfig().web is None
