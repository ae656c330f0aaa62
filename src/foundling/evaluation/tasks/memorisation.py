"""Does the model recite its training text? Greedy extraction after a prefix, beside held-out text of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from foundling.core.errors import FoundlingError
from foundling.core.rng import numpy_rng
from foundling.evaluation.config import MemorisationConfig
from foundling.evaluation.documents import Documents
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Request
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task

TRAIN, HELD_OUT = "train", "held-out"


@dataclass(frozen=True)
class Memorisation:
    """Discoverable memorisation (Carlini et al. 2023, arXiv:2202.07646): the right text follows its own prefix.

    "extracted" is the share of training passages reproduced to the last character; "overlap" the share of characters
    up to the first difference. Held-out passages are asked too: what a model gets right there, it did not memorise.
    """

    config: MemorisationConfig
    documents: Documents
    seed: int

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        metrics = []
        for side in (TRAIN, HELD_OUT):
            metrics.append(Metric(f"extracted ({side})", "share", higher_is_better=False))
            metrics.append(Metric(f"overlap ({side})", "mean", higher_is_better=False))
        return Task("memorisation", 1, tuple(metrics), self.config.model_dump(mode="json"))

    @cached_property
    def _items(self) -> list[Item]:
        training = self.documents.training(self.config.items * 40 * self.config.prefix, self.seed)
        held_out = [document.text for document in self.documents.shuffled("memorisation", self.seed)]
        found = []
        for side, texts in ((TRAIN, training), (HELD_OUT, held_out)):
            passages = [p for n, text in enumerate(texts) if (p := self._passage(text, n))][: self.config.items]
            found += [Item(f"{side}-{n}", passage, side) for n, passage in enumerate(passages)]
        if not found:
            longest = self.config.prefix + self.config.suffix
            raise FoundlingError(
                f"no text of the corpus is longer than {longest} characters", "memorisation needs some"
            )
        return found

    def items(self) -> Sequence[Item]:
        """Training and held-out passages; data is (prefix, what follows)."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """A greedy continuation of the prefix; characters are at least as many as tokens."""
        return [Generate(item.data[0], self.config.suffix)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Compares character by character."""
        outcomes = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, GenerateAnswer)
            truth, text = item.data[1], answer.texts[0][: self.config.suffix]
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, truth, strict=False)))
            metrics: dict[str, float | tuple[float, float]] = {
                f"extracted ({item.slice})": float(text == truth),
                f"overlap ({item.slice})": same / len(truth),
            }
            sample = {"prompt": item.data[0], "answer": text, "truth": truth}
            outcomes.append(Outcome(item.id, metrics, sample, item.slice))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """The held-out side is the reference; a model that recites nothing scores 0."""
        return {f"extracted ({TRAIN})": [Reference("nothing recited", 0.0)]}

    def _passage(self, text: str, number: int) -> tuple[str, str] | None:
        length = self.config.prefix + self.config.suffix
        if len(text) < length:
            return None
        start = int(numpy_rng(self.seed, "passage", number).integers(0, len(text) - length + 1))
        passage = text[start : start + length]
        return passage[: self.config.prefix], passage[self.config.prefix :]
