"""The expression task as an evaluation: greedy pass@1, sampled pass@8, and whether the answer is an expression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

from foundling.core.rng import seed_for
from foundling.evaluation.config import ExpressionsConfig
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Messages, Request
from foundling.evaluation.statistics import pass_all_k, pass_at_k
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task
from foundling.evaluation.tasks import expressions

HELD_OUT: tuple[Literal["compositions", "phrasings"], ...] = ("compositions", "phrasings")
K = 8


@dataclass(frozen=True)
class AnsweringExpressions:
    """Held-out compositions and held-out phrasings, asked through the chat template or as few-shot text.

    The items are the same whatever the seed: corpora are decontaminated from just these. `seed` moves the samples.
    """

    config: ExpressionsConfig
    seed: int

    @property
    def task(self) -> Task:
        """Name, metrics, settings. With more than 8 samples pass@8 is the unbiased mean estimate."""
        metrics = [Metric("pass@1"), Metric("followed")]
        if self.config.samples >= K:
            kind: Literal["share", "mean"] = "share" if self.config.samples == K else "mean"
            metrics += [Metric(f"pass@{K}", kind), Metric(f"pass^{K}", kind), Metric("pass@1 sampled", "mean")]
        return Task("expressions", 1, tuple(metrics), self.config.model_dump(mode="json"))

    @cached_property
    def _items(self) -> list[Item]:
        found = [item for split in HELD_OUT for item in expressions.generate(split, self.config.items)]
        return [Item(item.id, item, item.split) for item in found]

    def items(self) -> Sequence[Item]:
        """Both held-out splits; data is the expression item."""
        return self._items

    def requests(self, item: Item) -> Sequence[Request]:
        """One greedy answer and, if wanted, the samples."""
        prompt, length = self._prompt(item.data), self.config.max_tokens
        chat = self.config.prompt == "chat"
        stop = () if chat else ("\n",)
        greedy = Generate(prompt, length, stop, begins_document=not chat)
        if not self.config.samples:
            return [greedy]
        seed = seed_for(self.seed, "expressions", item.id)
        return [greedy, replace(greedy, temperature=self.config.temperature, n=self.config.samples, seed=seed)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """Runs every different answer once, in the sandbox."""
        texts = [[text.strip() for answer in mine for text in _texts(answer)] for mine in answers]
        jobs = list(dict.fromkeys((i, text) for i, mine in enumerate(texts) for text in mine))
        graded = expressions.grade([items[i].data for i, _ in jobs], [text for _, text in jobs])
        verdicts = dict(zip(jobs, graded, strict=True))
        return [
            self._outcome(item, mine, [verdicts[i, text] for text in mine])
            for i, (item, mine) in enumerate(zip(items, texts, strict=True))
        ]

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """What the most common right answer would score if it were always given."""
        common = Counter(item.data.reference for item in items).most_common(1)[0][0]
        graded = expressions.grade([item.data for item in items], [common] * len(items))
        share = sum(outcome.passed for outcome in graded) / len(graded)
        return {"pass@1": [Reference(f"always {common!r}", share)]}

    def _prompt(self, item: expressions.Item) -> str | Messages:
        if self.config.prompt == "chat":
            return tuple((m["role"], m["content"]) for m in expressions.messages(item))
        shots = expressions.generate("train", self.config.shots, seed=1)
        return "".join(f"# {s.instruction}\n{s.reference}\n\n" for s in shots) + f"# {item.instruction}\n"

    def _outcome(self, item: Item, texts: list[str], verdicts: list[expressions.Outcome]) -> Outcome:
        greedy, sampled = verdicts[0], verdicts[1:]
        metrics: dict[str, float | tuple[float, float]] = {
            "pass@1": float(greedy.passed),
            "followed": float(greedy.followed),
        }
        if len(sampled) >= K:
            n, correct = len(sampled), sum(outcome.passed for outcome in sampled)
            metrics |= {f"pass@{K}": pass_at_k(n, correct, K), f"pass^{K}": pass_all_k(n, correct, K)}
            metrics["pass@1 sampled"] = correct / n
        sample = {
            "instruction": item.data.instruction,
            "reference": item.data.reference,
            "answer": texts[0],
            **asdict(greedy),
            "samples": dict(Counter(texts[1:])),
        }
        flags = ("empty answer",) if not texts[0] else ()
        return Outcome(item.id, metrics, sample, item.slice, flags)


def _texts(answer: Answer) -> tuple[str, ...]:
    assert isinstance(answer, GenerateAnswer)
    return answer.texts
