"""Gopher's quality and repetition rules (Rae et al. 2021, appendix A1.1 and table A1), as FineWeb applies them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from foundling.core.config import Config, option
from foundling.corpus.characters import ALPHA, PUNCTUATION, Batch, Spans
from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.rules.rule import Judge, Verdict
from foundling.corpus.rules.verdicts import Reasons, judge_batches, share
from foundling.corpus.word_spans import word_spans

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
Splitter = Callable[[Batch, int], Spans]  # (batch, number of its first document) -> words


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


def own_words(batch: Batch, first: int) -> Spans:
    """Words by our own splitter."""
    return word_spans(batch)


def quality(config: GopherQuality, words: Splitter = own_words) -> Judge:
    """The quality rules. `words` may be another splitter, for comparisons."""

    def judge(documents: pl.DataFrame) -> Verdict:
        return judge_batches(documents, lambda batch, first: judge_quality(config, batch, words(batch, first))), None

    return Judge("gopher quality", judge)


def repetition(config: GopherRepetition, words: Splitter = own_words) -> Judge:
    """The repetition rules. `words` may be another splitter, for comparisons."""

    def judge(documents: pl.DataFrame) -> Verdict:
        return judge_batches(documents, lambda batch, first: judge_repetition(config, batch, words(batch, first))), None

    return Judge("gopher repetition", judge)


def judge_quality(config: GopherQuality, batch: Batch, words: Spans) -> Reasons:
    """The first rule that each text of a batch breaks."""
    reasons = Reasons(len(batch))
    marks = batch.within(batch.has(PUNCTUATION), words.starts, words.ends)
    real = marks < words.lengths
    n_words, n_real = words.counts, words.per_text(real)
    reasons.below("gopher: too few words", n_real, config.min_words)
    reasons.above("gopher: too many words", n_real, config.max_words)
    mean_length = share(words.per_text(words.lengths * real), n_real)
    reasons.below("gopher: words too short", mean_length, config.min_word_length)
    reasons.above("gopher: words too long", mean_length, config.max_word_length)
    reasons.above("gopher: many #", share(batch.count("#"), n_words), config.max_symbols)
    ellipses = share(batch.count("...") + batch.count("…"), n_words)
    reasons.above("gopher: many ellipses", ellipses, config.max_symbols)
    bullets, trailing = _line_marks(batch)
    reasons.above("gopher: bullet lines", bullets, config.max_bullet_lines)
    reasons.above("gopher: lines that trail off", trailing, config.max_ellipsis_lines)
    alphabetic = words.per_text(batch.within(batch.has(ALPHA), words.starts, words.ends) > 0)
    reasons.below("gopher: words without letters", share(alphabetic, n_words), config.min_alphabetic_words)
    if config.min_stop_words is not None:
        reasons.below("gopher: few stop words", _stop_words(batch, words), config.min_stop_words)
    return reasons


def judge_repetition(config: GopherRepetition, batch: Batch, words: Spans) -> Reasons:
    """The first rule that each text of a batch breaks."""
    reasons = Reasons(len(batch))
    reasons.add("gopher: empty", batch.lengths == 0)
    whole = Spans(batch.offsets[:-1], batch.offsets[1:], np.arange(len(batch) + 1))
    stripped = batch.strip(whole)
    paragraphs = _trimmed(batch.split(2), stripped)
    count, characters = _repeated(batch, paragraphs)
    reasons.above("gopher: repeated paragraphs", share(count, paragraphs.counts), config.duplicate_paragraphs)
    limit = config.duplicate_paragraph_characters
    reasons.above("gopher: repeated paragraphs (characters)", share(characters, batch.lengths), limit)
    lines = batch.split(1)
    count, characters = _repeated(batch, lines)
    reasons.above("gopher: repeated lines", share(count, lines.counts), config.duplicate_lines)
    limit = config.duplicate_line_characters
    reasons.above("gopher: repeated lines (characters)", share(characters, batch.lengths), limit)
    word_hashes = batch.hashes(words)
    for n, top in config.top_ngrams:
        found = _top_ngram_characters(words, word_hashes, n)
        reasons.above(f"gopher: frequent {n}-gram", share(found, batch.lengths), top)
    for n, most in config.duplicate_ngrams:
        open_texts = reasons.codes < 0
        found = _repeated_ngram_characters(words, word_hashes, n, most * batch.lengths, open_texts)
        reasons.above(f"gopher: repeated {n}-grams", share(found, batch.lengths), most)
    return reasons


def _line_marks(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """((texts,) share of lines that begin with a bullet, (texts,) share that end with an ellipsis)."""
    lines = batch.strip(batch.lines)
    filled = lines.lengths > 0
    padded = np.append(batch.codes, 0)
    first = padded[lines.starts]
    bullets = filled & ((first == 0x2022) | (first == 0x2D))
    last = padded[np.maximum(lines.ends - 1, 0)]
    dots = (lines.lengths >= 3) & (last == 0x2E)
    for back in (2, 3):
        dots &= padded[np.maximum(lines.ends - back, 0)] == 0x2E
    trailing = filled & (dots | (last == 0x2026))
    return share(lines.per_text(bullets), lines.counts), share(lines.per_text(trailing), lines.counts)


def _stop_words(batch: Batch, words: Spans) -> Ints:
    """(texts,) how many of the stop words occur in each text."""
    sample = Batch(STOP_WORDS)
    wanted = sample.hashes(Spans(sample.offsets[:-1], sample.offsets[1:], np.arange(len(STOP_WORDS) + 1)))
    short = np.flatnonzero(words.lengths <= max(map(len, STOP_WORDS)))
    picked = Spans(words.starts[short], words.ends[short], words.offsets)
    hashes, owners = batch.hashes(picked), words.owners[short]
    present = [np.bincount(owners[hashes == word], minlength=len(batch)) > 0 for word in wanted]
    return np.sum(present, axis=0, dtype=np.int64)


def _trimmed(pieces: Spans, stripped: Spans) -> Spans:
    """The pieces of each text when white space at its two ends is cut off first."""
    low, high = stripped.starts[pieces.owners], stripped.ends[pieces.owners]
    starts, ends = np.maximum(pieces.starts, low), np.minimum(pieces.ends, high)
    keep = ends >= starts
    keep &= ~((ends == starts) & ((pieces.ends <= low) | (pieces.starts >= high)) & (high > low))
    empty_text = stripped.lengths[pieces.owners] == 0
    keep[empty_text] = False
    first = pieces.offsets[:-1][stripped.lengths == 0]
    keep[first] = True
    owners = pieces.owners[keep]
    offsets = np.searchsorted(owners, np.arange(len(stripped.starts) + 1))
    return Spans(np.minimum(starts, ends)[keep], ends[keep], offsets)


def _repeated(batch: Batch, pieces: Spans) -> tuple[Ints, Ints]:
    """((texts,) pieces that occurred before in their text, (texts,) characters in them)."""
    again = _repeats(_in_text(batch.hashes(pieces), pieces.owners))
    return pieces.per_text(again), pieces.per_text(pieces.lengths * again)


def _in_text(hashes: Hashes, owners: Ints) -> Hashes:
    """Hashes that differ between texts."""
    return (hashes ^ owners.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15) + owners.astype(np.uint64)


def _multiple(values: Hashes) -> Ints:
    """Positions of values that occur more than once. Sorting values is fast where sorting positions is slow."""
    ordered = np.sort(values)
    several = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(several):
        return np.zeros(0, np.int64)
    place = np.minimum(np.searchsorted(several, values), len(several) - 1)
    return np.flatnonzero(several[place] == values)


def _repeats(values: Hashes) -> np.ndarray:
    """(values,) True for each value that occurred before."""
    again = np.zeros(len(values), bool)
    where = _multiple(values)
    again[where] = True
    again[where[np.unique(values[where], return_index=True)[1]]] = False
    return again


def _windows(words: Spans, hashes: Hashes, n: int) -> tuple[Hashes, Ints]:
    """((windows,) hash of each run of `n` words inside a text, different between texts; (windows,) its first word)."""
    count = len(hashes) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    rolled = np.zeros(count, np.uint64)
    for k in range(n):
        rolled = rolled * np.uint64(0xD6E8FEB86659FD93) + hashes[k : k + count]
    first = np.flatnonzero(words.owners[:count] == words.owners[n - 1 :])
    return _in_text(rolled[first], words.owners[first]), first


def _top_ngram_characters(words: Spans, hashes: Hashes, n: int) -> Ints:
    """(texts,) length of the most frequent n-gram (joined by spaces; of several, the first) times its occurrences."""
    running = np.concatenate([[0], np.cumsum(words.lengths)])
    has_one = words.counts >= n
    start = words.offsets[:-1][has_one]
    found = np.zeros(len(words.counts), np.int64)
    found[has_one] = running[start + n] - running[start] + n - 1  # nothing repeated: the first one, once
    keys, first = _windows(words, hashes, n)
    several = _multiple(keys)
    _, where, counts = np.unique(keys[several], return_index=True, return_counts=True)
    start = first[several[where]]
    owner = words.owners[start]
    order = np.lexsort((start, -counts, owner))
    best = order[np.unique(owner[order], return_index=True)[1]]
    found[owner[best]] = (running[start[best] + n] - running[start[best]] + n - 1) * counts[best]
    return found


def _repeated_ngram_characters(
    words: Spans, hashes: Hashes, n: int, limits: np.ndarray, open_texts: np.ndarray
) -> Ints:
    """(texts,) characters in n-grams seen before, walking each text and jumping over each repetition.

    The walk is sequential, so it is done only for texts where the characters under any repeated window (an upper
    bound) pass the limit.
    """
    found = np.zeros(len(words.counts), np.int64)
    keys, first = _windows(words, hashes, n)
    if not len(keys):
        return found
    again = _repeats(keys)
    change = np.zeros(len(hashes) + 1, np.int32)
    np.add.at(change, first[again], 1)
    np.add.at(change, first[again] + n, -1)
    bound = words.per_text(words.lengths * (np.cumsum(change[:-1]) > 0))
    running = np.concatenate([[0], np.cumsum(words.lengths)])
    edges = np.searchsorted(first, words.offsets)
    for text in np.flatnonzero(open_texts & (bound > limits)):
        part = slice(edges[text], edges[text + 1])
        found[text] = _walk(keys[part].tolist(), (running[first[part] + n] - running[first[part]]).tolist(), n)
    return found


def _walk(keys: list[int], sizes: list[int], n: int) -> int:
    seen: set[int] = set()
    repeated = position = 0
    while position < len(keys):
        if keys[position] in seen:
            repeated += sizes[position]
            position += n
        else:
            seen.add(keys[position])
            position += 1
    return repeated
