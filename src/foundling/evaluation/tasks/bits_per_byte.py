"""Bits per byte of held-out documents: how well the model compresses text it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from foundling.core.errors import FoundlingError
from foundling.corpus.baselines import compression_baselines, ngram_bits_per_byte
from foundling.evaluation.config import BitsPerByteConfig
from foundling.evaluation.documents import Document, Documents
from foundling.evaluation.requests import Answer, Request, Rolling, RollingAnswer
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task


@dataclass(frozen=True)
class BitsPerByte:
    """Items are whole documents; the score is total bits / total UTF-8 bytes, comparable across tokenizers."""

    config: BitsPerByteConfig
    documents: Documents
    seed: int

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        ratio = Metric("bits_per_byte", "ratio", higher_is_better=False)
        per_token = Metric("bits_per_token", "ratio", higher_is_better=False)
        settings = {"context": self.config.context, "window_context": self.config.window_context}
        return Task("bits-per-byte", 1, (ratio, per_token), settings)

    @cached_property
    def chosen(self) -> list[Document]:
        """A seeded choice of documents worth `max_bytes`, none longer than a quarter of that if there are such."""
        sizes = [(len(d.text.encode()), d) for d in self.documents.shuffled("bits-per-byte", self.seed) if d.text]
        if not sizes:
            raise FoundlingError("the corpus has no held-out text", fix="Raise its `validation_bytes`")
        fitting = [pair for pair in sizes if pair[0] <= self.config.max_bytes // 4]
        chosen, total = [], 0
        for size, document in fitting or sorted(sizes, key=lambda pair: (pair[0], pair[1].id)):
            chosen.append(document)
            total += size
            if total >= self.config.max_bytes:
                break
        return chosen

    def items(self) -> Sequence[Item]:
        """The chosen documents."""
        return [Item(document.id, document.text, document.source) for document in self.chosen]

    def requests(self, item: Item) -> Sequence[Request]:
        """The whole document."""
        return [Rolling(item.data)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Bits, bytes and tokens of each document."""
        outcomes = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, RollingAnswer)
            bits, size = -answer.logprob / math.log(2), len(item.data.encode())
            metrics = {"bits_per_byte": (bits, float(size)), "bits_per_token": (bits, float(answer.tokens))}
            outcomes.append(Outcome(item.id, dict(metrics), {"bytes": size, "tokens": answer.tokens}, item.slice))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """gzip and xz document by document, and an n-gram model fitted to training text."""
        texts = [item.data for item in items]
        found = dict(compression_baselines(texts))
        if self.config.ngram_bytes:
            found["n-gram"] = ngram_bits_per_byte(self.documents.training(self.config.ngram_bytes, self.seed), texts)
        return {"bits_per_byte": [Reference(name, value) for name, value in found.items()]}
