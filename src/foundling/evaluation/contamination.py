"""Which items of a test set stand in a model's own training corpus, and what it scores on those and on the rest.

Lineage makes this possible: the corpus that a model was raised on is an artifact, so it can be searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars

from foundling.core.artifacts import Artifact
from foundling.corpus.columns import FlatText
from foundling.corpus.decontaminate import MIN_WORDS, NGRAM
from foundling.corpus.words import WordHashes, hash_text, word_hashes
from foundling.evaluation.scores import score
from foundling.evaluation.task import Outcome, Task

_TEXT_FIELDS = ("question", "prompt", "instruction")


def found_in(items: Sequence[str], training: WordHashes) -> list[bool]:
    """Whether a run of 13 words of each item (all of a shorter one) stands in a training text.

    Items under four words occur by chance and are never counted (Brown et al. 2020, appendix C).
    """
    words = [hash_text(item) for item in items]
    lengths = [min(NGRAM, len(mine)) for mine in words]
    tables = {n: np.unique(training.windows(n)[0]) for n in sorted(set(lengths)) if n >= MIN_WORDS}
    found = []
    for mine, length in zip(words, lengths, strict=True):
        if length < MIN_WORDS:
            found.append(False)
            continue
        grams = WordHashes(mine, np.array([0, len(mine)])).windows(length)[0]
        found.append(bool(np.isin(grams, tables[length]).any()))
    return found


def training_words(corpus: Artifact) -> WordHashes:
    """The words of all training texts of a corpus."""
    texts = polars.read_parquet(corpus.file("train.parquet"), columns=["text"])["text"]
    return word_hashes(FlatText.of(texts))


def split_scores(task: Task, outcomes: Sequence[Outcome], training: WordHashes, seed: int) -> dict[str, Any]:
    """Scores on the items found in training ("dirty") and on the others ("clean"); {} if items have no text."""
    texts = [next((str(o.sample[f]) for f in _TEXT_FIELDS if f in o.sample), "") for o in outcomes]
    if not any(texts):
        return {}
    dirty = found_in(texts, training)
    parts: dict[str, Any] = {"dirty_items": sum(dirty), "items": len(dirty)}
    for name, wanted in (("clean", False), ("dirty", True)):
        chosen = [outcome for outcome, is_dirty in zip(outcomes, dirty, strict=True) if is_dirty == wanted]
        found = {m.name: score(m, chosen, (seed, task.name, name)) for m in task.metrics}
        parts[name] = {k: {"value": i.value, "low": i.low, "high": i.high, "n": i.n} for k, i in found.items() if i}
    return parts
