"""FineWeb's own quality rules (Penedo et al. 2024, section 3.6)."""

from __future__ import annotations

import numpy as np
import polars as pl

from foundling.corpus.characters import SPACE, TERMINAL, Batch, Spans
from foundling.corpus.rules.config import FineWebQuality
from foundling.corpus.rules.gopher import Splitter, own_words, repeated_pieces
from foundling.corpus.rules.rule import Judge, Verdict
from foundling.corpus.rules.verdicts import Reasons, judge_batches, share


def quality(config: FineWebQuality, words: Splitter = own_words) -> Judge:
    """The rules. `words` may be another splitter, for comparisons."""

    def judge(documents: pl.DataFrame) -> Verdict:
        return judge_batches(documents, lambda batch, first: judge_quality(config, batch, words(batch, first))), None

    return Judge("fineweb quality", judge)


def judge_quality(config: FineWebQuality, batch: Batch, words: Spans) -> Reasons:
    """The first rule that each text of a batch breaks."""
    reasons = Reasons(len(batch))
    lines = batch.split(1)  # runs of newlines: blank lines do not count
    filled = batch.within(batch.has(SPACE), lines.starts, lines.ends) < lines.lengths
    owners = lines.owners[filled]
    lines = Spans(lines.starts[filled], lines.ends[filled], np.searchsorted(owners, np.arange(len(batch) + 1)))
    reasons.add("fineweb: empty", lines.counts == 0)
    ends = batch.has(TERMINAL)[lines.ends - 1]
    punctuated = share(lines.per_text(ends), lines.counts)
    reasons.below("fineweb: lines without punctuation", punctuated, config.min_punctuated_lines)
    short = share(lines.per_text(lines.lengths <= config.short_line), lines.counts)
    reasons.above("fineweb: short lines", short, config.max_short_lines)
    newlines = batch.per_text(batch.codes == 0x0A)
    repeated = share(repeated_pieces(batch, lines)[1], batch.lengths - newlines)
    reasons.above("fineweb: repeated lines", repeated, config.max_repeated_line_characters)
    reasons.above("fineweb: lists", share(newlines, words.counts), config.max_line_breaks)
    return reasons
