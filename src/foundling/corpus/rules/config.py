"""The configs of the published rule sets; each threshold can be changed, and null switches a rule off."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from foundling.core.config import Config, option


class GopherQuality(Config):
    """Thresholds of Gopher's quality rules; null switches one off."""

    min_words: int | None = option(50, "fewest words")
    max_words: int | None = option(100_000, "most words")
    min_word_length: float | None = option(3, "smallest mean word length")
    max_word_length: float | None = option(10, "largest mean word length")
    max_symbols: float | None = option(0.1, 'most "#" or "..." for each word')
    max_bullet_lines: float | None = option(0.9, "largest share of lines that begin with a bullet")
    max_ellipsis_lines: float | None = option(0.3, 'largest share of lines that end with "..."')
    min_alphabetic_words: float | None = option(0.8, "smallest share of words with a letter")
    min_stop_words: int | None = option(2, "fewest different English stop words")


class GopherRepetition(Config):
    """Thresholds of Gopher's repetition rules; null switches one off, n-grams are [n, largest share] pairs."""

    duplicate_lines: float | None = option(0.3, "largest share of lines that occurred before")
    duplicate_paragraphs: float | None = option(0.3, "largest share of paragraphs that occurred before")
    duplicate_line_characters: float | None = option(0.2, "largest share of characters in such lines")
    duplicate_paragraph_characters: float | None = option(0.2, "largest share of characters in such paragraphs")
    top_ngrams: tuple[tuple[int, float], ...] = option(
        ((2, 0.2), (3, 0.18), (4, 0.16)), "largest share of characters in the most frequent n-gram"
    )
    duplicate_ngrams: tuple[tuple[int, float], ...] = option(
        ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)),
        "largest share of characters in n-grams that occurred before",
    )


class FineWebQuality(Config):
    """Thresholds of FineWeb's quality rules; null switches one off."""

    min_punctuated_lines: float | None = option(0.12, "smallest share of lines that end a sentence")
    max_short_lines: float | None = option(0.67, "largest share of lines of at most `short_line` characters")
    short_line: int = option(30, "characters of a short line", ge=0)
    max_repeated_line_characters: float | None = option(0.01, "largest share of characters in repeated lines")
    max_line_breaks: float | None = option(0.3, "most line breaks for each word")


class C4Quality(Config):
    """C4's rules; each can be switched off."""

    citations: bool = option(True, "cut Wikipedia's citation marks")
    terminal_punctuation: bool = option(True, "drop lines that do not end a sentence")
    min_words_in_line: int | None = option(3, "fewest words of a line")
    max_word_length: int | None = option(1000, "longest word of a line")
    javascript: bool = option(True, 'drop lines that mention "javascript"')
    policy: bool = option(True, "drop lines about cookies, privacy and terms of use")
    lorem_ipsum: bool = option(True, 'drop pages that hold "lorem ipsum"')
    curly_brackets: bool = option(True, 'drop pages that hold "{"')
    min_sentences: int | None = option(5, "fewest sentences of what is left of a page")


class CodeQuality(Config):
    """Filters of The Stack and StarCoder (Kocetkov et al. 2022; Li et al. 2023, section 3), for source files only."""

    max_line_length: int | None = option(1000, "a file with a longer line is taken for minified or data", ge=1)
    max_mean_line_length: float | None = option(100, "files with a longer mean line go", ge=1)
    min_alphabetic: float | None = option(0.25, "smallest share of letters", ge=0, le=1)
    generated: bool = option(True, "drop files that say that a program wrote them")
    xml: bool = option(True, "drop files that are XML, whatever their ending")
    data_characters: tuple[int, int] | None = option((50, 5000), "JSON and YAML files of another length are data")


class WebSignals(Config):
    """What a page's address and its publisher say, read from its meta fields.

    The readers of web pages fill `url`, `license` (rel="license"), `robots` (header and meta) and `terms`
    ("tdm-reserved" where the site reserves its rights by the TDM Reservation Protocol).
    """

    url_field: str = option("url", "the meta field with the address")
    blocked_domains: tuple[str, ...] = option((), "drop pages of these domains and their subdomains")
    allowed_domains: tuple[str, ...] = option((), "if given, keep only pages of these domains")
    blocked_url_words: tuple[str, ...] = option((), "drop pages whose address holds one of these words")
    votes_field: str = option("votes", "the meta field with upvotes of whoever linked to the page")
    min_votes: int | None = option(None, "fewest upvotes (WebText took 3)")
    licence_field: str = option("license", "the meta field with the licence")
    allowed_licences: tuple[str, ...] = option((), "if given, keep only these licences (SPDX names, any case)")
    robots_field: str = option("robots", "the meta field with the page's or site's robots directives")
    refused_robots: tuple[str, ...] = option(("noai", "noindex", "notrain"), "drop pages that say one of these")
    robots_txt: str | None = option(None, 'JSON lines {"host": ..., "robots": text of the host\'s robots.txt}')
    robots_agents: tuple[str, ...] = option(
        ("CCBot", "GPTBot", "Google-Extended"), "drop pages that robots_txt forbids to any of these agents"
    )
    terms_field: str = option("terms", "the meta field with the site's terms of service")
    refused_terms: tuple[str, ...] = option(("tdm-reserved", "no-training"), "drop pages whose terms say one of these")


class Language(Config):
    """Language by fastText's lid.176 (Joulin et al. 2016)."""

    keep: tuple[str, ...] = option((), "ISO 639-1 codes to keep; none: only write the language into meta")
    min_score: float = option(0.65, "smallest probability of the best language", ge=0, le=1)


class Quality(Config):
    """A classifier that tells good examples from the corpus at large."""

    good: tuple[str, ...] = option(help="files or globs with good examples", min_length=1)
    keep_share: float = option(0.5, "share of the corpus that should pass", gt=0, le=1)
    examples: int = option(2000, "texts of each kind to learn from, at most", ge=20)


class Perplexity(Config):
    """Documents that a model predicts badly (or too well) go: a byte n-gram model of reference texts, or any model."""

    reference: tuple[str, ...] = option((), "files or globs with reference text for the n-gram model")
    model: str | None = option(None, "a language model in its place: a path, package or hub id")
    max_bits_per_byte: float = option(3.0, "documents that need more go", gt=0)
    min_bits_per_byte: float = option(0.0, "documents that need less go: repetitions, tables", ge=0)
    order: int = option(5, "longest n-gram in bytes", ge=1, le=8)
    examples: int = option(2000, "reference texts to learn from, at most", ge=1)

    @model_validator(mode="after")
    def _one_scorer(self) -> Perplexity:
        if bool(self.reference) == bool(self.model):
            raise ValueError("give either `reference` texts for an n-gram model or a `model`")
        return self


class RepeatedText(Config):
    """Lines or paragraphs that many documents share (menus, disclaimers): the first ones stay, later ones are cut."""

    unit: Literal["line", "paragraph"] = option("paragraph", "what is compared: lines, or what blank lines separate")
    times: int = option(1, "how often one may occur in the training text", ge=1)
    min_characters: int = option(40, "shorter ones may repeat", ge=1)
