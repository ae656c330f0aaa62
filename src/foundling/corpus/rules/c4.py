"""C4's rules (Raffel et al. 2020, section 2.2): most work on lines, so the text that stays is a shorter one."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from foundling.corpus.rules.config import C4Quality
from foundling.corpus.rules.rule import Judge, Verdict

CITATION = r"\[\d*\]|\[edit\]|\[citation needed\]"
POLICY = r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
_LINE_BREAKS = "\r\n|[\r\x0b\x0c\x1c\x1d\x1e\u0085\u2028\u2029]"
# A full stop after a lower-case letter, a digit, a closing mark or two capitals (not an initial), or "!" or "?",
# perhaps quoted, and something after it that is no further mark.
_SENTENCE_END = r"""(?:(?:[\p{Ll}\p{Lo}\p{N})\]"'”’%]|\p{Lu}\p{Lu})\.|[!?])["'”’)\]]*\s+[^\s.!?]"""


def count_sentences(lines: pl.Series) -> pl.Series:
    """(lines,) sentences of each line."""
    return lines.str.count_matches(_SENTENCE_END).cast(pl.Int64) + 1


def quality(config: C4Quality, sentences: Callable[[pl.Series], pl.Series] = count_sentences) -> Judge:
    """The rules. `sentences` may be another counter, for comparisons."""

    def judge(documents: pl.DataFrame) -> Verdict:
        return judge_texts(config, documents["text"], sentences)

    return Judge("c4 lines", judge)


def judge_texts(config: C4Quality, texts: pl.Series, sentences: Callable[[pl.Series], pl.Series]) -> Verdict:
    """(reasons against each page, text of the lines that are left)."""
    lines = _well_formed(config, _lines(texts))
    spoils = lines.select("page", _spoiled(config).alias("spoils")).drop_nulls().unique("page", keep="first")
    kept = lines.filter(~_mentions("javascript", config.javascript) & ~_mentions(POLICY, config.policy))
    kept = kept.with_columns(sentences(kept["line"]).alias("sentences"))
    left = kept.group_by("page").agg(pl.col("line").str.join("\n"), pl.col("sentences").sum())
    pages = pl.DataFrame({"page": pl.Series(range(len(texts)), dtype=pl.UInt32)})
    for part in (spoils, left):
        pages = pages.join(part, "page", how="left", maintain_order="left")
    few = pl.col("sentences").fill_null(0) < (config.min_sentences or 0)
    reasons = pages.select(pl.coalesce("spoils", pl.when(few).then(pl.lit("c4: too few sentences")))).to_series()
    return reasons, pages["line"].fill_null("").str.strip_chars()


def _lines(texts: pl.Series) -> pl.DataFrame:
    """Every line of every page, stripped, with its page's number; empty ones are left out."""
    plain = texts.str.replace_all(_LINE_BREAKS, "\n")
    frame = pl.DataFrame({"page": pl.Series(range(len(texts)), dtype=pl.UInt32), "line": plain.str.split("\n")})
    return frame.explode("line").with_columns(pl.col("line").str.strip_chars()).filter(pl.col("line") != "")


def _well_formed(config: C4Quality, lines: pl.DataFrame) -> pl.DataFrame:
    """The lines that end a sentence, with enough words, none too long; citation marks cut out."""
    if config.max_word_length is not None:
        lines = lines.filter(~_has_long_word(lines["line"], config.max_word_length))
    n_words = pl.col("line").str.count_matches(r"\S+")
    line = pl.col("line").str.replace_all(CITATION, "") if config.citations else pl.col("line")
    if config.terminal_punctuation:
        ends = line.str.contains(r"""[.?!"']\z""") & ~line.str.ends_with("...")
        lines = lines.filter(ends)
    if config.min_words_in_line is not None:
        lines = lines.filter(n_words >= config.min_words_in_line)
    return lines.with_columns(line)


def _has_long_word(lines: pl.Series, limit: int) -> pl.Series:
    """(lines,) whether a word is longer than `limit`; only long lines are looked at."""
    found = (lines.str.len_bytes() > limit).to_list()
    for number in [n for n, long in enumerate(found) if long]:
        found[number] = max(map(len, lines[number].split()), default=0) > limit
    return pl.Series(found, dtype=pl.Boolean)


def _spoiled(config: C4Quality) -> pl.Expr:
    """What a line holds that drops its whole page, or null. A line about JavaScript goes before brackets count."""
    lorem = _mentions("lorem ipsum", config.lorem_ipsum)
    bracket = pl.lit(config.curly_brackets) & pl.col("line").str.contains("{", literal=True)
    bracket = bracket & ~_mentions("javascript", config.javascript)
    return pl.when(lorem).then(pl.lit("c4: lorem ipsum")).when(bracket).then(pl.lit("c4: curly bracket"))


def _mentions(pattern: str, enabled: bool) -> pl.Expr:
    return pl.col("line").str.contains(f"(?i){pattern}") if enabled else pl.lit(False)
