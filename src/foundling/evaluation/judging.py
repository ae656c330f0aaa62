"""Who answers better: evaluations' answers judged by a model, a reward model or people's votes, and ranked.

People's votes are the server's (`foundling serve --votes FILE`): preference rows with the models' names. Several files
are several labellers; where they, or a judge, saw the same two answers, their agreement is reported as Cohen's kappa.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError
from foundling.core.report import Page, code, details, table
from foundling.evaluation.judge import Pair, Verdicts, grade, judge
from foundling.evaluation.rankings import Judgement, cohens_kappa, elo
from foundling.evaluation.requests import Answerer
from foundling.evaluation.rows import read_rows
from foundling.evaluation.scores import read_outcomes
from foundling.evaluation.statistics import Interval, bootstrap_mean, wilson
from foundling.evaluation.task import Outcome

Exchange = tuple[str, str]  # what was asked, what was answered


@dataclass
class Judged:
    """Ratings of models, or grades where there is only one; and how far the judges can be trusted."""

    ratings: dict[str, Interval] = field(default_factory=dict)
    grades: dict[str, Interval] = field(default_factory=dict)
    win_rates: dict[str, Interval] = field(default_factory=dict)  # of "A against B", ties half
    kappa: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    shown: list[tuple[Pair, Judgement]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the answers, as JSON data."""
        intervals = {
            name: {key: asdict(interval) for key, interval in getattr(self, name).items()}
            for name in ("ratings", "grades", "win_rates")
        }
        return {**intervals, "kappa": self.kappa, "counts": self.counts}

    def __str__(self) -> str:
        lines = [
            f"rating {name}: {i.value:.0f} [{i.low:.0f}, {i.high:.0f}] ({i.n} games)" for name, i in self._ranked()
        ]
        lines += [f"grade {name}: {i}" for name, i in self.grades.items()]
        lines += [f"win rate of {name}: {i}" for name, i in self.win_rates.items()]
        lines += [f"agreement (Cohen's kappa) of {who}: {value:.3f}" for who, value in self.kappa.items()]
        return "\n".join([*lines, *(f"{name}: {count}" for name, count in self.counts.items())])

    def write_page(self, path: Path) -> None:
        """One HTML file: ratings, win rates, agreement, every pair with its verdict."""
        page = Page("Judged answers", ", ".join(self.ratings or self.grades))
        rows = [[name, f"{i.value:.0f} [{i.low:.0f}, {i.high:.0f}]", i.n] for name, i in self._ranked()]
        if rows:
            page.section(
                "Ratings", table(["model", "Elo", "games"], rows), note="Bradley-Terry, mean 1000, 95% intervals"
            )
            page.section(
                "Win rates", table(["", "share won, ties half"], [[k, str(i)] for k, i in self.win_rates.items()])
            )
        if self.grades:
            page.section("Grades", table(["model", "mean of 1 to 10"], [[k, str(i)] for k, i in self.grades.items()]))
        trust = [[f"kappa of {who}", f"{value:.3f}"] for who, value in self.kappa.items()]
        page.section("How far to trust it", table(["", ""], [*trust, *([k, v] for k, v in self.counts.items())]))
        blocks = [
            details(f"{j.winner}: {p.prompt[:90]}", code(p.prompt), code(f"A ({p.model_a})\n{p.answer_a}"),
                    code(f"B ({p.model_b})\n{p.answer_b}"))
            for p, j in self.shown
        ]  # fmt: skip
        if blocks:
            page.section("Every pair", *blocks)
        page.write(path)

    def _ranked(self) -> list[tuple[str, Interval]]:
        return sorted(self.ratings.items(), key=lambda pair: -pair[1].value)


def judge_evaluations(
    evaluations: Mapping[str, Artifact],
    by: str | None,
    votes: Sequence[Path],
    length_control: bool,
    store: Store | None = None,
) -> Judged:
    """Judge what the evaluations hold in common, and count votes.

    Raises:
        FoundlingError: nothing to judge, no answers in common, a broken vote, or a judge that cannot be had.
    """
    labelled = {str(path): read_votes(path) for path in votes}
    if (by is None and not labelled) or (evaluations and by is None):
        raise FoundlingError("there is no judge", fix="Name one with --by MODEL or URL, or give --votes FILE")
    if not evaluations and not labelled:
        raise FoundlingError(
            "there is nothing to judge", fix="Name evaluations that hold answers, or give --votes FILE"
        )
    found = Judged()
    answers = {name: exchanges(artifact) for name, artifact in evaluations.items()}
    judged: list[tuple[Pair, Judgement]] = [pair for mine in labelled.values() for pair in mine]
    found.kappa |= _between(labelled)
    if by is not None:
        judgement = _Judge(by, store)
        if len(answers) == 1 and not judgement.is_reward:
            [(name, mine)] = answers.items()
            _add_grades(found, name, grade(list(mine.values()), judgement.answerer))
        elif answers:
            judged += _judged_pairs(found, answers, judgement)
        if labelled:
            people = [pair for pair, _ in judged[: sum(map(len, labelled.values()))]]
            own = {str(by): list(zip(people, judgement(people).judgements, strict=True))}
            found.kappa |= _between({**labelled, **own}, str(by))
    if judged:
        found.ratings = elo([j for _, j in judged], control_length=length_control)
        found.win_rates = _win_rates([j for _, j in judged])
        found.shown = judged
        found.counts["pairs"] = len(judged)
    return found


def exchanges(evaluation: Artifact) -> dict[str, Exchange]:
    """(what was asked, what was answered) of every item with a generated answer; of conversations all turns."""
    found: dict[str, Exchange] = {}
    for task, outcomes in read_outcomes(evaluation).items():
        for outcome in outcomes.values():
            exchange = _exchange(outcome)
            if exchange is not None:
                found[f"{task}/{outcome.id}"] = exchange
    return found


def read_votes(path: Path) -> list[tuple[Pair, Judgement]]:
    """The server's votes: every one a pair of which the first answer won.

    Raises:
        FoundlingError: naming the line that is no vote.
    """
    found = []
    for row in read_rows(path):
        try:
            prompt = "\n\n".join(str(message["content"]) for message in row.fields["prompt"])
            chosen, rejected = (str(row.fields[side][0]["content"]) for side in ("chosen", "rejected"))
            names = [str(row.fields["meta"][f"{side}_model"]) for side in ("chosen", "rejected")]
        except (KeyError, IndexError, TypeError) as error:
            expected = "{prompt, chosen, rejected, meta: {chosen_model, rejected_model}} was expected"
            raise FoundlingError(f"{row.where} is no vote: {type(error).__name__} {error}", expected) from None
        pair = Pair(prompt, names[0], chosen, names[1], rejected)
        found.append((pair, pair.judged("a")))
    return found


class _Judge:
    """A model, URL or reward model that says which of two answers is better."""

    def __init__(self, spec: str, store: Store | None) -> None:
        from foundling.evaluation.answering import LocalAnswerer
        from foundling.evaluation.remote_answering import RemoteAnswerer
        from foundling.inference.model import load
        from foundling.inference.remote import connect, is_url

        self.answerer: Answerer
        self.model = None if is_url(spec) else load(spec, store)
        if self.model is None:
            self.answerer = RemoteAnswerer(connect(spec))
        elif not self.is_reward:
            config = self.model.module.config
            self.answerer = LocalAnswerer(self.model.engine, self.model.tokenizer, config.max_positions)

    @property
    def is_reward(self) -> bool:
        """Whether it gives a number instead of words."""
        return self.model is not None and self.model.module.config.head.kind == "labels"

    def __call__(self, pairs: Sequence[Pair]) -> Verdicts:
        if not self.is_reward:
            return judge(pairs, self.answerer)
        sides = [(p.prompt, answer) for p in pairs for answer in (p.answer_a, p.answer_b)]
        rewards = self._rewards(sides)
        both = zip(pairs, rewards[::2], rewards[1::2], strict=True)
        return Verdicts([pair.judged("a" if a > b else "b" if b > a else "tie") for pair, a, b in both])

    def _rewards(self, sides: Sequence[Exchange]) -> list[float]:
        """The reward model's number after each exchange, at its last token."""
        import torch

        from foundling.inference.runner import inference_of
        from foundling.tokenization.chat import render

        assert self.model is not None
        module, tokenizer, found = self.model.module, self.model.tokenizer, []
        with inference_of(module):
            for prompt, answer in sides:
                turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
                ids = render(tokenizer, turns).ids[-module.config.max_positions :]
                device = next(module.parameters()).device
                found.append(float(module.head(module.hidden(torch.tensor([ids], device=device))[0, -1])[0]))
        return found


def _judged_pairs(
    found: Judged, answers: Mapping[str, Mapping[str, Exchange]], judgement: _Judge
) -> list[tuple[Pair, Judgement]]:
    pairs = []
    for (name_a, a), (name_b, b) in combinations(answers.items(), 2):
        shared = [key for key in a if key in b]
        if not shared:
            raise FoundlingError(f"{name_a} and {name_b} hold no answers to the same prompts", "nothing can be judged")
        pairs += [Pair(a[key][0], name_a, a[key][1], name_b, b[key][1]) for key in shared]
    verdicts = judgement(pairs)
    found.counts |= {"verdicts that turned with the order": verdicts.inconsistent, "no verdict": verdicts.unreadable}
    return list(zip(pairs, verdicts.judgements, strict=True))


def _add_grades(found: Judged, name: str, grades: Sequence[int | None]) -> None:
    given = [value for value in grades if value is not None]
    found.grades[name] = bootstrap_mean(given)
    found.counts["no grade"] = len(grades) - len(given)


def _between(
    labelled: Mapping[str, Sequence[tuple[Pair, Judgement]]], judge_name: str | None = None
) -> dict[str, float]:
    """Kappa of every two labellers (or of the judge and each labeller) on the answers that both saw.

    A label says which of two answers, in alphabetical order, is better.
    """
    labels = {who: {_seen(pair): _label(pair, judgement) for pair, judgement in mine} for who, mine in labelled.items()}
    kappas = {}
    for first, second in combinations(labels, 2):
        shared = [key for key in labels[first] if key in labels[second]]
        if shared and (judge_name is None or judge_name in (first, second)):
            who = f"{first} and {second} on {len(shared)} pairs"
            kappas[who] = cohens_kappa([labels[first][k] for k in shared], [labels[second][k] for k in shared])
    return kappas


def _seen(pair: Pair) -> str:
    return json.dumps([pair.prompt, *sorted((pair.answer_a, pair.answer_b))])


def _label(pair: Pair, judgement: Judgement) -> str:
    if judgement.winner == "tie":
        return "tie"
    first_wins = (judgement.winner == "a") == (pair.answer_a <= pair.answer_b)
    return "first" if first_wins else "second"


def _win_rates(judgements: Sequence[Judgement]) -> dict[str, Interval]:
    won: dict[str, list[float]] = {}
    for judgement in judgements:
        a, b = sorted((judgement.a, judgement.b))
        points = {"a": 1.0, "b": 0.0, "tie": 0.5}[judgement.winner]
        won.setdefault(f"{a} against {b}", []).append(points if a == judgement.a else 1 - points)
    return {who: wilson(sum(points), len(points)) for who, points in won.items()}


def _exchange(outcome: Outcome) -> Exchange | None:
    sample = outcome.sample
    if "conversation" in sample:
        said = sample["conversation"]
        asked = "\n\n".join(f"Turn {n}: {m['content']}" for n, m in enumerate(said[::2], 1))
        return asked, "\n\n".join(f"Turn {n}: {m['content']}" for n, m in enumerate(said[1::2], 1))
    if isinstance(sample.get("answer"), str) and isinstance(sample.get("question"), str):
        return sample["question"], sample["answer"]
    return None
