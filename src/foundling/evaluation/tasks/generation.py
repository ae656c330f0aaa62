"""Generated answers, read out by one or more rules and compared with the truth; every rule is its own metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from foundling.core.errors import FoundlingError
from foundling.evaluation.abstention import abstains
from foundling.evaluation.matching import YES_OR_NO, extract, matches
from foundling.evaluation.rows import Row
from foundling.evaluation.statistics import pass_all_k, pass_at_k
from foundling.evaluation.support import supported_share
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task, Value
from foundling.evaluation.tasks.answered import Answered, Graded
from foundling.evaluation.templates import evaluate, render
from foundling.evaluation.text_metrics import corpus_score


@dataclass(frozen=True)
class Truth:
    """The accepted answers; `answerable` False: none is right but to say that one does not know; None: not asked."""

    accepted: list[str]
    answerable: bool | None = None


@dataclass(frozen=True)
class Generation(Answered):
    """A task file of kind `generate`.

    Beside the rules: "valid", every rule with a pattern found an answer (where there are patterns). Where the file
    says what can be answered: "invented", an answer to a question that has none, and "abstained", none to one that has.
    With samples: "pass@k" and "pass^k" of the first rule, "agreement", how often two answers to the same input read
    the same, "majority", whether the most common answer is right, and "self-consistency", the share of the greedy
    answer's sentences that the samples support (SelfCheckGPT's idea, Manakul et al. 2023, arXiv:2303.08896).
    """

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        rules = self.spec.extract
        metrics = [Metric(name, "share" if rule.match in YES_OR_NO else "mean") for name, rule in rules.items()]
        metrics += [Metric("valid")] if any(rule.pattern for rule in rules.values()) else []
        if self.spec.answerable is not None:
            metrics += [Metric(name, higher_is_better=False) for name in ("invented", "abstained")]
        if self.samples.count:
            metrics += [Metric(f"pass{sign}{k}", "mean") for k in self.samples.ks for sign in "@^"]
            metrics += [Metric("majority"), Metric("agreement", "mean"), Metric("self-consistency", "mean")]
        return Task(self.spec.name, self.spec.version, tuple(metrics), self.settings())

    def truth(self, row: Row) -> Truth:
        """The accepted answers, and whether there is one at all."""
        assert self.spec.answer is not None
        answerable = None if self.spec.answerable is None else bool(evaluate(self.spec.answerable, row))
        if answerable is False:
            return Truth([], answerable)
        found = evaluate(self.spec.answer, row)
        accepted = [str(one) for one in (found if isinstance(found, (list, tuple)) else [found])]
        if not accepted or not all(text.strip() for text in accepted):
            raise FoundlingError(f"{row.where}: the accepted answers are {accepted!r}", "none may be empty")
        return Truth(accepted, answerable)

    def shown(self, row: Row) -> str:
        """The target, or the first accepted answer."""
        return render(self.spec.target, row) if self.spec.target else self.truth(row).accepted[0]

    def graded(self, truth: Truth, text: str) -> Graded:
        """Each rule's extraction and verdict; an answer that a rule cannot find counts as wrong and is flagged."""
        rules, metrics = self.spec.extract, dict[str, Value]()
        found = {name: extract(rule, text) for name, rule in rules.items()}
        declined = self.spec.answerable is not None and abstains(text)
        if truth.answerable is False:
            metrics["invented"] = float(not declined)
        else:
            for name, answer in found.items():
                metrics[name] = matches(rules[name], answer, truth.accepted) if answer is not None else 0.0
            if truth.answerable:
                metrics["abstained"] = float(declined)
        missing = tuple(f"{name}: no answer found" for name, answer in found.items() if answer is None)
        if any(rule.pattern for rule in rules.values()):
            metrics["valid"] = float(not missing)
        first = next(iter(found.values()))
        sample = {"read": found, "accepted": truth.accepted[:5], "pick": None if first is None else first.strip()}
        return Graded(metrics, sample, missing)

    def repeated(self, truth: Truth, greedy: Graded, texts: Sequence[str]) -> dict[str, Value]:
        """What several answers to the same question say of the model, by the first rule."""
        rule = next(iter(self.spec.extract))
        each = [self.graded(truth, text) for text in texts]
        picks = [graded.sample["pick"] for graded in each]
        counts, n = Counter(picks), len(picks)
        metrics: dict[str, Value] = {"self-consistency": supported_share(str(greedy.sample["pick"] or ""), texts)}
        if n > 1:
            metrics["agreement"] = sum(c * (c - 1) for c in counts.values()) / (n * (n - 1))
        if truth.answerable is False:
            return metrics
        right = [value == 1.0 for graded in each if isinstance(value := graded.metrics[rule], float)]
        metrics["majority"] = float(right[picks.index(counts.most_common(1)[0][0])])
        for k in self.samples.ks:
            metrics |= {f"pass@{k}": pass_at_k(n, sum(right), k), f"pass^{k}": pass_all_k(n, sum(right), k)}
        greedy.sample["each"] = [float(one) for one in right]
        greedy.sample.update(confidence=counts[greedy.sample["pick"]] / n, correct=greedy.metrics[rule])
        return metrics

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """What always giving the most common answer scores."""
        answers = [item.data[1].accepted for item in items if item.data[1].accepted]
        if not answers:
            return {}
        common = Counter(accepted[0] for accepted in answers).most_common(1)[0][0]
        beside = {}
        for name, rule in self.spec.extract.items():
            share = sum(matches(rule, common, accepted) for accepted in answers) / len(answers)
            beside[name] = [Reference("most common answer", share)]
        return beside

    def corpus_scores(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """BLEU and chrF of all answers as one corpus: what papers give; the metric is the mean over items."""
        samples = [outcome.sample for outcome in outcomes if outcome.sample["accepted"]]
        accepted = [sample["accepted"] for sample in samples]
        return {
            name: corpus_score(rule.match, [sample["read"][name] or "" for sample in samples], accepted)
            for name, rule in self.spec.extract.items()
            if rule.match in ("bleu", "chrf") and samples
        }
