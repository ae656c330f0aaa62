"""The corpus's files: train, validation, what was dropped and why, and the tallies for the report."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from foundling.corpus import block
from foundling.corpus.columns import Ints
from foundling.corpus.config import CorpusConfig
from foundling.corpus.decide import CONTAMINATED, REASONS, TRAIN, VALIDATION, Fates
from foundling.corpus.dialogue import find_dialogues
from foundling.corpus.documents import SCHEMA, with_ids
from foundling.corpus.repeated import Cuts
from foundling.corpus.rules.rule import explain

EXAMPLES = 3
UNUSED = "left out by the mixture"
TOO_SHORT = "too short without what occurred before"


class Writer:
    """Writes the files of a corpus in one pass over its blocks, and one more for each repetition in the mixture.

    Args:
        fate: (documents,) what becomes of each.
        leaks: (documents,) number of the evaluation item that each holds, -1 for none.
        items: the evaluation items, shown for those that leaked.
        cuts: the repeated lines or paragraphs that go.

    Attributes:
        dropped: reason -> documents, bytes and some examples.
        sizes: split -> documents and bytes written.
        phases: for each phase of the training its documents and bytes.
        cut: documents that lost repeated pieces, and the bytes of those.
        fingerprint: sha256 of the training documents' ids in their order.
    """

    def __init__(
        self, path: Path, config: CorpusConfig, fate: Fates, leaks: Ints, items: Sequence[str], cuts: Cuts | None
    ) -> None:
        self.path, self.config, self.fate, self.leaks, self.items, self.cuts = path, config, fate, leaks, items, cuts
        self.dropped: dict[str, dict[str, Any]] = {}
        self.sizes = {split: Counter({"documents": 0, "bytes": 0}) for split in ("train", "validation")}
        self.phases: list[dict[str, int]] = []
        self.cut: Counter[str] = Counter()
        self._order = hashlib.sha256()

    @property
    def fingerprint(self) -> str:
        """The order and content of the training documents."""
        return f"sha256:{self._order.hexdigest()}"

    def write(self, folders: Sequence[Path], uses: Ints, held_out: Path | None = None) -> None:
        """Write everything.

        Args:
            held_out: another corpus's validation.parquet, which becomes this one's.
            uses: (documents, phases) how often each goes into train; in a phase, the second use of a document comes
                after the first of all others.
        """
        schema = pa.schema(dict.fromkeys(SCHEMA, pa.large_string()))
        with ExitStack() as stack:
            self._train, self._validation, self._dropped = (
                stack.enter_context(pa.parquet.ParquetWriter(self.path / f"{name}.parquet", wanted, compression="zstd"))
                for name, wanted in (("train", schema), ("validation", schema), ("dropped", block.DROPPED_SCHEMA))
            )
            self._dialogues = (
                stack.enter_context((self.path / "dialogues.jsonl").open("w", encoding="utf-8"))
                if self.config.dialogues
                else None
            )
            self._used = uses.max(axis=1) > 0
            first_phase = True
            for phase in uses.T:
                before = Counter(self.sizes["train"])
                for epoch in range(max(int(phase.max(initial=0)), 1)):
                    self._pass(folders, phase > epoch, everything=first_phase and epoch == 0)
                first_phase = False
                self.phases.append({name: n - before[name] for name, n in self.sizes["train"].items()})
            for rows in block.rows_of(held_out) if held_out else ():
                self._write("validation", self._validation, rows)

    def _pass(self, folders: Sequence[Path], used: Any, *, everything: bool) -> None:
        """Append the training documents in `used`; in the first pass also all that is not for training."""
        start = 0
        for folder in folders:
            if everything:
                for rows in block.rows_of(folder / "dropped.parquet"):
                    self._drop(rows)
            for rows in block.rows_of(folder / "documents.parquet"):
                here = used[start : start + len(rows)]
                train = rows.filter(pl.Series(here))
                if self.cuts is not None:
                    rows = self._without_repeated(rows, start, tally=everything)
                    short = rows["text"].str.len_chars() < self.config.min_characters
                    if everything:
                        self._drop(
                            explain(rows.filter(short & pl.Series(self._used[start : start + len(rows)])), TOO_SHORT)
                        )
                    train = rows.filter(~short & pl.Series(here))
                self._write("train", self._train, train)
                self._order.update("".join(train["id"]).encode())
                if everything:
                    self._find_dialogues(train)
                    self._set_aside(rows, start)
                start += len(rows)

    def _without_repeated(self, rows: pl.DataFrame, start: int, *, tally: bool) -> pl.DataFrame:
        """The documents without their repeated pieces, under new ids where that changes them."""
        assert self.cuts is not None
        shorter = rows.with_columns(self.cuts.apply(rows["text"], start).alias("text"))
        changed = shorter["text"] != rows["text"]
        if tally:
            removed = int(rows["text"].str.len_bytes().sum()) - int(shorter["text"].str.len_bytes().sum())
            self.cut.update({"documents": int(changed.sum()), "bytes_removed": removed})
        ids = with_ids(shorter)["id"]
        return shorter.with_columns(pl.select(pl.when(changed).then(ids).otherwise(rows["id"])).to_series().alias("id"))

    def _set_aside(self, rows: pl.DataFrame, start: int) -> None:
        """What the decisions on all documents keep out of train."""
        part = pl.Series(self.fate[start : start + len(rows)])
        unused = (part == TRAIN) & ~pl.Series(self._used[start : start + len(rows)])
        self._drop(explain(rows.filter(unused), UNUSED))
        self._write("validation", self._validation, rows.filter(part == VALIDATION))
        for code, reason in REASONS.items():
            shown = None
            if code == CONTAMINATED:
                numbers = self.leaks[start : start + len(rows)][(part == code).to_numpy()]
                shown = pl.Series([self.items[number] for number in numbers], dtype=pl.String)
            self._drop(explain(rows.filter(part == code), reason, shown))

    def _write(self, split: str, writer: pa.parquet.ParquetWriter, rows: pl.DataFrame) -> None:
        writer.write_table(rows.to_arrow().cast(writer.schema))
        self.sizes[split].update({"documents": len(rows), "bytes": int(rows["text"].str.len_bytes().sum())})

    def _drop(self, rows: pl.DataFrame) -> None:
        self._dropped.write_table(rows.select(block.DROPPED_SCHEMA.names).to_arrow().cast(block.DROPPED_SCHEMA))
        for (reason,), part in rows.group_by("reason", maintain_order=True):
            tally = self.dropped.setdefault(str(reason), {"documents": 0, "bytes": 0, "examples": []})
            tally["documents"] += len(part)
            tally["bytes"] += int(part["bytes"].sum())
            missing = EXAMPLES - len(tally["examples"])
            tally["examples"] += part.head(missing).select("source", "excerpt", "meta").to_dicts() if missing else []

    def _find_dialogues(self, train: pl.DataFrame) -> None:
        if self._dialogues is None:
            return
        for identifier, text in train.select("id", "text").iter_rows():
            for messages in find_dialogues(text):
                self._dialogues.write(
                    json.dumps({"messages": messages, "document": identifier}, ensure_ascii=False) + "\n"
                )


def quarantine(path: Path, folders: Sequence[Path]) -> None:
    """All broken records of all blocks, in order."""
    with path.open("w", encoding="utf-8") as file:
        for entry in _entries(folders):
            file.write(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n")


def _entries(folders: Sequence[Path]) -> Iterator[dict[str, str]]:
    for folder in folders:
        yield from block.read_quarantine(folder)
