"""What a rule is, and how a list of rules runs over a frame of documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from foundling.corpus.documents import EXCERPT_CHARACTERS, with_ids

Select = Callable[[pl.DataFrame], pl.Series]
# (reasons, texts): why each document goes (null: it stays), and the changed texts, if the rules change any.
Verdict = tuple[pl.Series, pl.Series | None]


@dataclass(frozen=True)
class Drop:
    """Drops documents. `bad(documents)` gives a boolean column: True for a document that goes.

    The columns are text, source, meta and code (whether it is a source file).
    """

    reason: str
    bad: Select


@dataclass(frozen=True)
class Edit:
    """Changes texts. `change(documents)` gives the new `text` column."""

    reason: str
    change: Select


@dataclass(frozen=True)
class Judge:
    """A published set of rules that are computed together; `judge(documents)` gives each document's verdict."""

    reason: str
    judge: Callable[[pl.DataFrame], Verdict]


@dataclass(frozen=True)
class Label:
    """Writes new fields into each document's meta; `fields(documents)` has a column for each."""

    reason: str
    fields: Callable[[pl.DataFrame], pl.DataFrame]


Rule = Drop | Edit | Judge | Label


@dataclass
class Outcome:
    """What is left, what went (see `explain`), and counts by reason.

    Attributes:
        edited: reason -> (documents changed, bytes removed).
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame
    edited: dict[str, tuple[int, int]]


def apply(documents: pl.DataFrame, rules: Sequence[Rule]) -> Outcome:
    """Run the rules in order; a document counts under the first rule that drops it."""
    gone = []
    edited: dict[str, tuple[int, int]] = {}
    for rule in rules:
        if isinstance(rule, Edit):
            new = rule.change(documents).rename("text")
            edited[rule.reason] = _difference(documents["text"], new)
            documents = documents.with_columns(new)
        elif isinstance(rule, Label):
            documents = documents.with_columns(_labelled(documents["meta"], rule.fields(documents)))
        elif isinstance(rule, Judge):
            reasons, texts = rule.judge(documents)
            for reason in reasons.drop_nulls().unique(maintain_order=True):
                gone.append(explain(documents.filter((reasons == reason).fill_null(False)), reason))
            if texts is not None:
                new = pl.select(pl.when(reasons.is_null()).then(texts).otherwise(documents["text"])).to_series()
                edited[rule.reason] = _difference(documents["text"], new)
                documents = documents.with_columns(new.alias("text"))
            documents = documents.filter(reasons.is_null())
        else:
            bad = rule.bad(documents).fill_null(True)
            gone.append(explain(documents.filter(bad), rule.reason))
            documents = documents.filter(~bad)
    dropped = pl.concat(gone) if gone else explain(documents.clear(), "")
    return Outcome(documents, dropped, edited)


def _labelled(metas: pl.Series, fields: pl.DataFrame) -> pl.Series:
    """JSON objects with the fields' values added."""
    rows = zip(metas, fields.to_dicts(), strict=True)
    merged = [json.dumps(json.loads(meta) | new, sort_keys=True, ensure_ascii=False) for meta, new in rows]
    return pl.Series("meta", merged, dtype=pl.String)


def _difference(old: pl.Series, new: pl.Series) -> tuple[int, int]:
    """(texts that changed, bytes removed)."""
    return int((new != old).sum()), int(old.str.len_bytes().sum()) - int(new.str.len_bytes().sum())


def explain(documents: pl.DataFrame, reason: str, excerpts: pl.Series | None = None) -> pl.DataFrame:
    """Rows for the list of dropped documents; the excerpt is the text's beginning unless given."""
    shown = documents["text"] if excerpts is None else excerpts
    return with_ids(documents).select(
        pl.col("id"),
        pl.col("source"),
        pl.lit(reason).alias("reason"),
        shown.str.slice(0, EXCERPT_CHARACTERS).alias("excerpt"),
        pl.col("text").str.len_bytes().cast(pl.Int64).alias("bytes"),
        pl.col("meta"),
    )
