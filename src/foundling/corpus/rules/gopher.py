"""Gopher's quality and repetition rules (Rae et al. 2021, appendix A1.1 and table A1), as FineWeb applies them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foundling.corpus.characters import ALPHA, PUNCTUATION, Batch, Spans
from foundling.corpus.columns import Hashes, Ints
from foundling.corpus.rules.config import GopherQuality, GopherRepetition
from foundling.corpus.rules.rule import Judge, Verdict
from foundling.corpus.rules.verdicts import Reasons, judge_batches, share
from foundling.corpus.word_spans import word_spans

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_SIEVE = 1 << 20  # cells of the table that spares most values a search
Splitter = Callable[[Batch, int], Spans]  # (batch, number of its first document) -> words


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
    count, characters = repeated_pieces(batch, paragraphs)
    reasons.above("gopher: repeated paragraphs", share(count, paragraphs.counts), config.duplicate_paragraphs)
    limit = config.duplicate_paragraph_characters
    reasons.above("gopher: repeated paragraphs (characters)", share(characters, batch.lengths), limit)
    lines = batch.split(1)
    count, characters = repeated_pieces(batch, lines)
    reasons.above("gopher: repeated lines", share(count, lines.counts), config.duplicate_lines)
    limit = config.duplicate_line_characters
    reasons.above("gopher: repeated lines (characters)", share(characters, batch.lengths), limit)
    word_hashes = batch.hashes(words)
    top, repeated = dict(config.top_ngrams), dict(config.duplicate_ngrams)
    for n, start, keys in _repeated_windows(words, word_hashes, max([1, *top, *repeated])):
        if n in top:
            found = _top_ngram_characters(words, n, start, keys)
            reasons.above(f"gopher: frequent {n}-gram", share(found, batch.lengths), top[n])
        if n in repeated:
            limits = (repeated[n] * batch.lengths).astype(np.float64)
            found = _repeated_ngram_characters(words, n, start, keys, limits, reasons.codes < 0)
            reasons.above(f"gopher: repeated {n}-grams", share(found, batch.lengths), repeated[n])
    return reasons


def _line_marks(batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def repeated_pieces(batch: Batch, pieces: Spans) -> tuple[Ints, Ints]:
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
    maybe = np.zeros(_SIEVE, bool)
    maybe[several & np.uint64(_SIEVE - 1)] = True
    candidates = np.flatnonzero(maybe[values & np.uint64(_SIEVE - 1)])
    place = np.minimum(np.searchsorted(several, values[candidates]), len(several) - 1)
    return candidates[several[place] == values[candidates]]


def _repeats(values: Hashes) -> NDArray[np.bool_]:
    """(values,) True for each value that occurred before."""
    again = np.zeros(len(values), bool)
    where = _multiple(values)
    again[where] = True
    again[where[np.unique(values[where], return_index=True)[1]]] = False
    return again


def _repeated_windows(words: Spans, hashes: Hashes, longest: int) -> Iterator[tuple[int, Ints, Hashes]]:
    """(n, (windows,) first word, (windows,) key) for n = 2 ... longest: runs of n words that their text holds twice.

    What repeats at n words repeats at n - 1, so each length looks only at what is left of the one before.
    """
    start, keys = np.arange(len(hashes)), _in_text(hashes, words.owners)
    text_end = np.repeat(words.offsets[1:], words.counts)
    for n in range(2, longest + 1):
        fits = start + n <= text_end[start]
        start = start[fits]
        keys = keys[fits] * np.uint64(0xD6E8FEB86659FD93) + hashes[start + n - 1]
        several = _multiple(keys)
        start, keys = start[several], keys[several]
        yield n, start, keys


def _top_ngram_characters(words: Spans, n: int, start: Ints, keys: Hashes) -> Ints:
    """(texts,) length of the most frequent n-gram (joined by spaces; of several, the first) times its occurrences."""
    running = np.concatenate([[0], np.cumsum(words.lengths)])
    has_one = words.counts >= n
    begin = words.offsets[:-1][has_one]
    found = np.zeros(len(words.counts), np.int64)
    found[has_one] = running[begin + n] - running[begin] + n - 1  # nothing repeated: the first one, once
    _, where, counts = np.unique(keys, return_index=True, return_counts=True)
    begin = start[where]
    owner = words.owners[begin]
    order = np.lexsort((begin, -counts, owner))
    best = order[np.unique(owner[order], return_index=True)[1]]
    found[owner[best]] = (running[begin[best] + n] - running[begin[best]] + n - 1) * counts[best]
    return found


def _repeated_ngram_characters(
    words: Spans, n: int, start: Ints, keys: Hashes, limits: NDArray[np.float64], open_texts: NDArray[np.bool_]
) -> Ints:
    """(texts,) characters in n-grams seen before, walking each text and jumping over each repetition.

    The walk is sequential, so it is done only for texts where the characters under any repeated window (an upper
    bound) pass the limit.
    """
    count = len(words.starts) + 1
    under = np.cumsum(np.bincount(start, minlength=count) - np.bincount(start + n, minlength=count))[:-1] > 0
    bound = words.per_text(words.lengths * under)
    running = np.concatenate([[0], np.cumsum(words.lengths)])
    edges = np.searchsorted(start, words.offsets)
    found = np.zeros(len(words.counts), np.int64)
    for text in np.flatnonzero(open_texts & (bound > limits)):
        part = slice(edges[text], edges[text + 1])
        sizes = running[start[part] + n] - running[start[part]]
        found[text] = _walk(start[part].tolist(), keys[part].tolist(), sizes.tolist(), n)
    return found


def _walk(starts: list[int], keys: list[int], sizes: list[int], n: int) -> int:
    seen: set[int] = set()
    repeated = position = 0
    for start, key, size in zip(starts, keys, sizes, strict=True):
        if start < position:
            continue
        if key in seen:
            repeated += size
            position = start + n
        else:
            seen.add(key)
    return repeated
