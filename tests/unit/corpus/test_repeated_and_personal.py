"""Repeated lines and paragraphs, personal data, dialogues, one's own evaluation sets, which near duplicate stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.corpus.test_corpus_stage import make, prose, reasons, texts

from foundling.core.errors import FoundlingError
from foundling.corpus.config import CorpusConfig
from foundling.corpus.repeated import SEPARATORS, Cuts, write_pieces
from foundling.corpus.rules import personal
from foundling.corpus.rules.config import RepeatedText
from foundling.corpus.rules.rule import apply

MENU = "Home | Products | About us | Contact | All rights reserved"


def test_repeated_paragraphs_are_cut_from_all_but_the_first(tmp_path: Path) -> None:
    rows = [{"text": f"{prose(5, n)}\n\n{MENU}\n\n{prose(5, 100 + n)}"} for n in range(4)]
    rows += [{"text": f"{MENU}\n\nshort"}, {"text": prose(8, 50)}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = make(tmp_path / "s", data=(str(tmp_path / "rows.jsonl"),), validation_bytes=0, min_characters=20,
                  repeated=RepeatedText())  # fmt: skip
    found = texts(corpus)
    assert [MENU in text for text in found] == [True, False, False, False, False]
    assert found[1] == f"{prose(5, 1)}\n\n{prose(5, 101)}"
    assert reasons(corpus) == {"too short without what occurred before": 1}
    report = json.loads(corpus.file("report.json").read_text())
    assert report["edited"]["repeated pieces cut"]["documents"] == 4
    ids = pl.read_parquet(corpus.file("train.parquet"))["id"]
    assert ids.n_unique() == 5
    assert report["train"]["bytes"] == sum(len(text.encode()) for text in found)


def plain_cuts(documents: list[str], config: RepeatedText, among: list[bool]) -> list[str]:
    """What `Cuts` does, with a dictionary."""
    separator, seen, out = SEPARATORS[config.unit], {}, []
    for text, counts in zip(documents, among):
        kept = []
        for piece in text.split(separator):
            if counts and len(piece) >= config.min_characters:
                seen[piece] = seen.get(piece, 0) + 1
                if seen[piece] > config.times:
                    continue
            kept.append(piece)
        out.append(separator.join(kept))
    return out


@given(
    documents=st.lists(
        st.lists(st.sampled_from(["", "a", "bb é", "bb é!", "cccccc", "日本語"]), max_size=8), max_size=8
    ),
    unit=st.sampled_from(["line", "paragraph"]),
    times=st.integers(1, 2),
    blocks=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_cuts_equal_a_dictionary(tmp_path_factory, documents, unit, times, blocks, data) -> None:  # type: ignore[no-untyped-def]
    config = RepeatedText(unit=unit, times=times, min_characters=4)
    column = [SEPARATORS[unit].join(pieces) for pieces in documents]
    among = data.draw(st.lists(st.booleans(), min_size=len(column), max_size=len(column)))
    folders = []
    for part in range(blocks):
        folders.append(tmp_path_factory.mktemp("block"))
        write_pieces(pl.Series([], dtype=pl.String), config, folders[-1])
        write_pieces(pl.Series(column[part::blocks], dtype=pl.String), config, folders[-1])
    order = [n for part in range(blocks) for n in range(part, len(column), blocks)]
    column, among = [column[n] for n in order], [among[n] for n in order]
    cuts = Cuts(config, folders, np.array(among, bool), tmp_path_factory.mktemp("scratch"))
    expected = plain_cuts(column, config, among)
    applied = [text for n, text in enumerate(column) for text in cuts.apply(pl.Series([text], dtype=pl.String), n)]
    assert applied == expected
    assert cuts.apply(pl.Series(column, dtype=pl.String), 0).to_list() == expected


def test_many_parts_cut_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RepeatedText(unit="line", min_characters=1)
    column = [f"line {n % 7}\nline {n % 5}" for n in range(40)]
    write_pieces(pl.Series(column), config, tmp_path)
    monkeypatch.setattr("foundling.corpus.repeated._PART_PIECES", 8)
    cuts = Cuts(config, [tmp_path], np.ones(40, bool), tmp_path)
    assert cuts.apply(pl.Series(column), 0).to_list() == plain_cuts(column, config, [True] * 40)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to jane.doe@somewhere.org now", "write to email@example.com now"),
        ("server 8.8.8.8, port 53", "server 192.0.2.1, port 53"),
        ("http://93.184.216.34:8080/x", "http://192.0.2.1:8080/x"),
        ("at 127.0.0.1 or 192.168.0.1 or 10.1.2.3", None),
        ("version 1.2.3.4.5, v8.8.8.8, 8.8.8.8-rc1, 999.8.8.8", None),
        ("dns 2001:4860:4860::8888 or 2606:2800:220:1:248:1893:25c8:1946.", "dns 2001:db8::1 or 2001:db8::1."),
        ("std::vector<int> a::b ::1 fe80::1 2024:05 12:30:45", None),
        ("call (415) 555-2671 or 415-555-2671", "call +1-202-555-0100 or +1-202-555-0100"),
        ("call +44 20 7946 0958 today", "call +1-202-555-0100 today"),
        ("id 1234567890, date 2020-12-30, 10-20-30, ISBN 978-0-306-40615-7, 3.14159, +1.5e-10", None),
    ],
)
def test_personal_data_is_redacted_where_it_is_some(text: str, redacted: str | None) -> None:
    documents = pl.DataFrame({"text": [text], "source": ["s"], "meta": ["{}"], "code": [False]})
    assert apply(documents, personal.rules(CorpusConfig())).kept["text"][0] == (redacted or text)
    kinds = {"emails": "drop", "ip_addresses": "drop", "phone_numbers": "drop"}
    left = apply(documents, personal.rules(CorpusConfig(**kinds))).kept  # type: ignore[arg-type]
    assert len(left) == (redacted is None)
    kept = CorpusConfig(emails="keep", ip_addresses="keep", phone_numbers="keep", secrets="keep")
    assert personal.rules(kept) == []


def test_the_longest_of_a_cluster_stays_if_asked(tmp_path: Path) -> None:
    for name, text in (("a", prose(20, 1)), ("b", prose(20, 1) + " One more sentence."), ("c", prose(20, 2))):
        (tmp_path / f"{name}.txt").write_text(text)
    data = (str(tmp_path / "*.txt"),)
    assert texts(make(tmp_path / "s", data=data, validation_bytes=0)) == [prose(20, 1), prose(20, 2)]
    longest = make(tmp_path / "s", data=data, validation_bytes=0, representative="longest")
    assert texts(longest) == [prose(20, 1) + " One more sentence.", prose(20, 2)]
    found = json.loads(longest.file("report.json").read_text())["near_duplicates"]
    assert found["clusters"] == 1 and found["examples"][0]["documents"] == 2
    assert found["examples"][0]["members"][1]["text"] == prose(20, 1)[:160]
    assert found["recall"]["0.80"] >= 0.97


def test_evaluation_sets_of_ones_own(tmp_path: Path) -> None:
    question = "Which river flows through the three largest cities of the northern province"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": question, "choices": ["a b c d e"], "answer": "A"}))
    item, subject = "a short item of eight words in all", "high school european history"
    pl.DataFrame({"prompt": [item], "subject": [subject]}).write_parquet(tmp_path / "eval.parquet")
    (tmp_path / "train").mkdir()
    for n, leak in enumerate([question, item, "a b c d e", subject]):
        (tmp_path / "train" / f"{n}.txt").write_text(f"{prose(10, n)} {leak}")
    sets = (str(tmp_path / "eval.jsonl"), str(tmp_path / "eval.parquet"))
    data = (str(tmp_path / "train"),)
    corpus = make(tmp_path / "s", data=data, validation_bytes=0, evaluation_sets=sets)
    assert reasons(corpus) == {"contaminated: holds an evaluation item": 2}
    both = make(tmp_path / "s", data=data, validation_bytes=0, evaluation_sets=sets[:1],
                evaluation_fields=("question", "choices"))  # fmt: skip
    assert reasons(both) == {"contaminated: holds an evaluation item": 2}
    with pytest.raises(FoundlingError, match="Did you mean 'question'"):
        make(tmp_path / "s", data=data, evaluation_sets=sets[:1], evaluation_fields=("questoin",))


def test_conversations_are_written_for_later(tmp_path: Path) -> None:
    talk = "\n\n".join(f"{'Ann' if n % 2 else 'Bob'}: what is said at turn {n} of the talk" for n in range(8))
    (tmp_path / "a.txt").write_text(f"{prose(5, 1)}\n\n{talk}")
    (tmp_path / "b.txt").write_text(prose(10, 2))
    corpus = make(tmp_path / "s", data=(str(tmp_path / "*.txt"),), validation_bytes=0, dialogues=True)
    (line,) = corpus.file("dialogues.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"] * 4
    assert found["document"] in pl.read_parquet(corpus.file("train.parquet"))["id"]


def test_rules_on_code_can_be_switched_off(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1  # " + "y" * 1200 + "\n" + "def f(): return 1\n" * 10)
    (folder / "b.js").write_text("<?xml version='1.0'?>\n<a>" + "some text in an element\n" * 10 + "</a>\n")
    (folder / "c.yaml").write_text("key: a value of some length\n" * 300)
    (folder / "d.py").write_text("def keep(): return 'this one stays in any case'\n" * 5)
    data = (str(folder),)
    on = make(tmp_path / "s", data=data, validation_bytes=0)
    assert reasons(on) == {"code: a very long line": 1, "code: XML": 1, "code: a data file": 1}
    assert len(texts(make(tmp_path / "s", data=data, validation_bytes=0, code=None))) == 4
