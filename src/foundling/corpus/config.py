"""The config of the stage `corpus`."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option
from foundling.corpus.mixture import Mixture
from foundling.corpus.rules.config import (
    C4Quality,
    CodeQuality,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    Language,
    Perplexity,
    Quality,
    RepeatedText,
    WebSignals,
)

INSTALLED_PYTHON = "installed-python"
Treatment = Literal["redact", "drop", "keep"]


class CorpusConfig(Config):
    """Raw sources -> curated documents, split into train and validation."""

    data: tuple[str, ...] = option(
        (INSTALLED_PYTHON,),
        "files, folders or globs; or `installed-python`: Python's own sources and documentation, and our dependencies",
        min_length=1,
    )
    max_bytes: int | None = option(None, "read at most this many bytes of `installed-python`, in its order", gt=0)
    text_field: str = option("text", "the field of JSON, Parquet and CSV rows that holds the text")
    max_record_bytes: int = option(16_000_000, "a record longer than this is quarantined", gt=0)
    piece_characters: int = option(60_000, "plain text files longer than this are cut at blank lines", ge=1000)
    min_characters: int = option(100, "shorter documents are dropped", ge=1)
    max_characters: int = option(1_000_000, "longer documents are dropped", ge=1)
    code: CodeQuality | None = option(CodeQuality(), "The Stack's and StarCoder's rules on source files")
    strip_licences: bool = option(True, "cut licence boilerplate from the head of source files")
    emails: Treatment = option("redact", "e-mail addresses: redact, drop the document, or keep")
    ip_addresses: Treatment = option("redact", "public IP addresses: redact, drop the document, or keep")
    phone_numbers: Treatment = option("redact", "phone numbers: redact, drop the document, or keep")
    secrets: Treatment = option("drop", "private keys and access tokens: redact, drop the document, or keep")
    web: WebSignals | None = option(None, "rules on addresses, votes, licences and robots directives")
    language: Language | None = option(None, "language identification")
    gopher_quality: GopherQuality | None = option(None, "Gopher's quality rules")
    gopher_repetition: GopherRepetition | None = option(None, "Gopher's repetition rules")
    c4: C4Quality | None = option(None, "C4's rules")
    fineweb: FineWebQuality | None = option(None, "FineWeb's quality rules")
    quality: Quality | None = option(None, "a quality classifier, learned from good examples")
    perplexity: Perplexity | None = option(None, "a perplexity filter by an n-gram model")
    repeated: RepeatedText | None = option(None, "cut lines or paragraphs that occurred before, in any document")
    exact_duplicates: bool = option(True, "drop documents whose very text occurred before")
    near_duplicates: float = option(
        0.8, "Jaccard similarity from which one of two documents goes; 0: keep all", ge=0, le=1
    )
    representative: Literal["first", "longest"] = option("first", "which of a cluster of near duplicates stays")
    not_in: tuple[str, ...] = option(
        (), "earlier corpora (folders with train.parquet): copies and near duplicates of their documents go"
    )
    same_side: float = option(0.5, "documents at least this similar fall on the same side of the split", ge=0, le=1)
    decontaminate: bool = option(True, "drop training documents that hold an evaluation item")
    evaluation_sets: tuple[str, ...] = option((), "files (JSON lines, Parquet, CSV, text) of items to look for")
    evaluation_fields: tuple[str, ...] = option((), "their fields that hold the items; none: every text field")
    dialogues: bool = option(False, "write the conversations found in training text to dialogues.jsonl")
    validation_source: str | None = option(None, "take validation only from this source (a glob: `package:*`)")
    validation_bytes: int = option(800_000, "size of the validation split (0: none)", ge=0)
    validation_share: float = option(0.1, "the validation split takes at most this share of the text", ge=0, le=0.5)
    mixture: Mixture | None = option(None, "how often each source or language is used in training")
    seed: int = option(0, "which documents are held out")
    engine: Literal["local", "ray"] = option(
        "local",
        "where blocks run: this process's threads, or a Ray cluster that shares the store's disk",
        affects_result=False,
    )
    workers: int = option(0, "processes; 0: one for each core", affects_result=False, ge=0)
