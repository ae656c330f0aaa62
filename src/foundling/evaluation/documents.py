"""Held-out and training texts of a corpus artifact, in seeded orders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import polars

from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError
from foundling.core.rng import numpy_rng


@dataclass(frozen=True)
class Document:
    """One held-out text; `source` is the collection it came from."""

    id: str
    text: str
    source: str


@dataclass(frozen=True)
class Documents:
    """The validation split of a corpus; `corpus` is None when the evaluation was given none."""

    corpus: Artifact | None

    @cached_property
    def validation(self) -> list[Document]:
        """All held-out documents, in the artifact's order."""
        if self.corpus is None:
            fix = "Give --corpus (in a recipe: the input `corpus`), or other --tasks"
            raise FoundlingError("bits-per-byte, syntax and memorisation need a corpus's held-out text", fix=fix)
        frame = polars.read_parquet(self.corpus.file("validation.parquet"), columns=["id", "text", "source"])
        return [Document(*row) for row in frame.iter_rows()]

    def training(self, max_bytes: int, seed: int) -> list[str]:
        """Training texts in a seeded order, until `max_bytes` of them."""
        if self.corpus is None:
            raise FoundlingError("this task needs training text", "the evaluation has no corpus")
        texts = polars.read_parquet(self.corpus.file("train.parquet"), columns=["text"])["text"]
        chosen: list[str] = []
        total = 0
        for index in numpy_rng(seed, "training texts").permutation(len(texts)):
            if total >= max_bytes:
                break
            chosen.append(texts[int(index)])
            total += len(chosen[-1].encode())
        return chosen

    def shuffled(self, purpose: str, seed: int) -> list[Document]:
        """All held-out documents in a seeded order."""
        order = numpy_rng(seed, purpose, "documents").permutation(len(self.validation))
        return [self.validation[i] for i in order]
