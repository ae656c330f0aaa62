"""`foundling adapt`: from a task and a model to the cheapest road that is good enough, measured."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundling.core import progress
from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.evaluation.statistics import wilson
from foundling.post_training.data import existing_file, read_rows
from foundling.studies.adapt_config import AdaptConfig
from foundling.studies.adapt_roads import ROADS, TUNES, Row


@dataclass(frozen=True)
class Attempt:
    """One road on the held-out examples.

    Attributes:
        score, low, high: share of right answers with its 95% Wilson interval.
        build_s: seconds to make it ready.
        latency_s: seconds for one input by itself, the median of a few.
        cost_to_build, cost_per_1000: at the machine's price; calls made one after the other.
    """

    road: str
    score: float
    low: float
    high: float
    build_s: float
    latency_s: float
    cost_to_build: float
    cost_per_1000: float


@dataclass(frozen=True)
class Adaptation:
    """All roads that were tried, why others were not, and the advice."""

    attempts: tuple[Attempt, ...]
    skipped: dict[str, str]
    held_out: int
    advice: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """A table and the advice."""
        lines = [f"{'road':12} {'score':>6}  {'95% interval':14} {'build':>8} {'latency':>9} {'per 1000':>9}"]
        for a in self.attempts:
            interval = f"[{a.low:.2f}, {a.high:.2f}]"
            lines.append(
                f"{a.road:12} {a.score:6.3f}  {interval:14} {a.build_s:7.1f}s {a.latency_s * 1000:7.0f}ms "
                f"{a.cost_per_1000:9.4f}"
            )
        lines += [f"{road:12} not tried: {why}" for road, why in self.skipped.items()]
        return "\n".join([*lines, "", self.advice])


def adapt(base: Path, config: AdaptConfig) -> Adaptation:
    """Try the roads on the same held-out examples and recommend one.

    Raises:
        FoundlingError: a broken task file, or too few examples to hold some out.
    """
    begin = time.monotonic()
    train, held_out = _split(_read(config), config)
    attempts: list[Attempt] = []
    skipped: dict[str, str] = {}
    with progress.task("adapt", len(config.roads), "roads") as bar:
        for road in config.roads:
            why = _unsuitable(road, train, config, time.monotonic() - begin)
            if why:
                skipped[road] = why
            else:
                attempts.append(_try(road, base, train, held_out, config))
                progress.say(f"  {road}: {attempts[-1].score:.3f}")
            bar.advance(1)
    return Adaptation(tuple(attempts), skipped, len(held_out), _advice(attempts, config))


def _try(road: str, base: Path, train: Sequence[Row], held_out: Sequence[Row], config: AdaptConfig) -> Attempt:
    begin = time.perf_counter()
    answer = ROADS[road](base, train, config)
    built = time.perf_counter() - begin
    answers = answer([row.input for row in held_out])
    right = sum(_right(a, row.output, config) for a, row in zip(answers, held_out, strict=True))
    interval = wilson(right, len(held_out))
    latency = _latency(answer, [row.input for row in held_out[:5]])
    hourly = config.price_per_hour / 3600
    cost = (built * hourly, 1000 * latency * hourly)
    return Attempt(road, right / len(held_out), interval.low, interval.high, built, latency, *cost)


def _latency(answer: Any, inputs: Sequence[str]) -> float:
    taken = []
    for one in inputs:
        begin = time.perf_counter()
        answer([one])
        taken.append(time.perf_counter() - begin)
    return sorted(taken)[len(taken) // 2]


def _right(answer: str, output: str, config: AdaptConfig) -> bool:
    a, wanted = " ".join(answer.lower().split()), " ".join(output.lower().split())
    return wanted in a if config.metric == "contains" else a == wanted


def _unsuitable(road: str, train: Sequence[Row], config: AdaptConfig, used_s: float) -> str:
    """Why a road is not tried; "" if it is."""
    if used_s > config.budget_s:
        return f"the budget of {config.budget_s:g} s is used up"
    if road == "retrieval" and not config.documents:
        return "no documents were given"
    outputs = Counter(row.output for row in train)
    if road == "classifier" and (len(outputs) > config.classes or len(outputs) < 2):
        return f"the task has {len(outputs)} different outputs"
    return ""


def _advice(attempts: Sequence[Attempt], config: AdaptConfig) -> str:
    """The cheapest road that meets the bar, and what that says about fine-tuning."""
    if not attempts:
        return "Nothing was tried: raise the budget."
    best = max(attempts, key=lambda a: a.score)
    good = [a for a in attempts if a.score >= config.bar]
    if not good:
        return (
            f"No road reaches {config.bar:.0%}. The best is {best.road} with {best.score:.1%} "
            f"[{best.low:.1%}, {best.high:.1%}]: more examples or a larger model come next."
        )
    chosen = min(good, key=lambda a: (a.cost_per_1000 * 10 + a.cost_to_build, a.road))  # ten thousand calls
    sure = (
        "" if chosen.low >= config.bar else " (its interval reaches below the bar: more held-out examples would tell)"
    )
    advice = f"Use {chosen.road}: {chosen.score:.1%} [{chosen.low:.1%}, {chosen.high:.1%}]{sure}."
    if chosen.road not in TUNES:
        return (
            f"{advice} Fine-tuning is not the answer here: it costs more and is not needed to reach {config.bar:.0%}."
        )
    prompted = [a for a in attempts if a.road not in TUNES]
    if prompted and max(a.score for a in prompted) < config.bar:
        top = max(prompted, key=lambda a: a.score)
        advice += f" Prompting alone reaches {top.score:.1%} ({top.road})."
    return advice


def _read(config: AdaptConfig) -> list[Row]:
    return read_rows(existing_file(Path(config.data).expanduser()), _row, "refuse", Counter())


def _row(row: Any, where: str) -> Row:
    if not isinstance(row, dict) or not isinstance(row.get("input"), str) or not isinstance(row.get("output"), str):
        raise FoundlingError(f"{where} is no example", "a row has the texts `input` and `output`")
    return Row(row["input"], row["output"])


def _split(rows: Sequence[Row], config: AdaptConfig) -> tuple[list[Row], list[Row]]:
    """Training and held-out examples by a hash of the input, so that equal inputs never stand on both sides."""
    held = [seed_for(config.seed, "adapt", row.input) % 1000 < config.held_out * 1000 for row in rows]
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    held_out = [row for row, out in zip(rows, held, strict=True) if out]
    if len(train) < config.shots or len(held_out) < 5:
        raise FoundlingError(
            f"{len(rows)} examples are too few", "some dozens are needed to learn from and to score on"
        )
    return train, held_out
