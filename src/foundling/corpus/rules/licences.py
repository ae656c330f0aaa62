"""Cuts licence boilerplate: the comment block that opens a source file, where it speaks of copyright."""

from __future__ import annotations

import polars as pl

from foundling.corpus.rules.rule import Edit

# A block of `#`, `//`, `--` or `;` lines (after "#!" and coding lines), or one /* */ comment, at the very beginning.
_LINES = r"\A(?:#!.*\n)?(?:#.*coding[:=].*\n)?\s*((?:[ \t]*(?:#|//|--|;).*\n)+)"
_BLOCK = r"\A\s*(/\*(?s:.*?)\*/[ \t]*\n?)"
_SPEAKS_OF_LICENCE = r"(?i)copyright|licen[sc]e|spdx-|all rights reserved|\(c\) \d{4}"


def rules() -> list[Edit]:
    """The licence rule."""
    return [Edit("licence boilerplate", _strip)]


def _strip(documents: pl.DataFrame) -> pl.Series:
    text = pl.col("text")
    stripped = text
    for pattern in (_LINES, _BLOCK):
        head = text.str.extract(pattern, 1)
        is_licence = pl.col("code") & head.str.contains(_SPEAKS_OF_LICENCE).fill_null(False)
        stripped = pl.when(is_licence).then(text.str.replace(pattern, "")).otherwise(stripped)
    return documents.select(stripped.alias("text"))["text"]
