"""Costs that are paid by the example or by the token: labels, comparisons, languages, and the last mile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from foundling.core.errors import FoundlingError
from foundling.planning.answer import Answer, Figure, not_negative, positive

WRITTEN_PRICE, COMPARISON_PRICE = 10.0, 3.5
LABEL_SOURCES = (
    "InstructGPT used about 13,000 written demonstrations (Ouyang et al. 2022, arXiv:2203.02155, table 6); $10 each: "
    "Huyen 2025, AI Engineering, chapter 2",
    "$3.50 a comparison against $25 a written answer: a Llama 2 author, in Huyen 2025, AI Engineering, chapter 2",
)
MIN_CURVE_POINTS = 4  # the curve has three parameters


def labels(
    examples: float, price: float | None, comparisons: float, comparison_price: float | None, minutes: float
) -> Answer:
    """What human answers and comparisons cost.

    Args:
        examples, comparisons: how many of each.
        price, comparison_price: of one of each; None: the textbook's, which is said.
        minutes: work on one written example; 0: leave the hours out.
    """
    counts = not_negative("examples", examples), not_negative("comparisons", comparisons)
    assumed = ["no second opinions, no rejected work: multiply by the share that is thrown away"]
    if price is None or comparison_price is None:
        assumed.append("prices not given are examples of 2022 and 2023 in dollars: ask who will do the work")
    prices = (
        not_negative("the price of an example", WRITTEN_PRICE if price is None else price),
        positive("the price of a comparison", COMPARISON_PRICE if comparison_price is None else comparison_price),
    )
    if not sum(counts):
        raise FoundlingError("neither examples nor comparisons are asked for", "give --examples or --comparisons")
    figures = [
        Figure("written examples", counts[0] * prices[0], "money"),
        Figure("comparisons", counts[1] * prices[1], "money"),
        Figure("together", counts[0] * prices[0] + counts[1] * prices[1], "money"),
        Figure("comparisons for the price of one written example", prices[0] / prices[1], ""),
    ]
    if minutes:
        figures.append(Figure("hours of writing", counts[0] * positive("minutes", minutes) / 60, "count"))
    return Answer(
        f"{counts[0]:,.0f} written examples and {counts[1]:,.0f} comparisons",
        figures,
        ["cost = examples × price + comparisons × price of a comparison"],
        assumed,
        LABEL_SOURCES,
    )


def languages(costs: Sequence[tuple[str, float, float]], price: float, characters: float, reference: str) -> Answer:
    """What the same content costs in each language, by the token.

    Args:
        costs: (language, premium over the reference, characters per token), the dearest first.
        price: of a million tokens.
        characters: of the reference text to be read or written.
    """
    positive("the price of a million tokens", price)
    base = next(per_token for name, _, per_token in costs if name == reference)
    tokens = positive("the number of characters", characters) / base
    rows = [
        (name, f"{premium:.2f}×", f"{per_token:.2f}", f"{premium * tokens * price / 1e6:,.2f}")
        for name, premium, per_token in costs
    ]
    worst = max(premium for _, premium, _ in costs)
    figures = [
        Figure(f"tokens of {characters:,.0f} characters of {reference}", tokens, "tokens"),
        Figure("dearest language over the reference", worst, "times"),
        Figure("cost in the reference", tokens * price / 1e6, "money"),
        Figure("cost in the dearest", worst * tokens * price / 1e6, "money"),
    ]
    return Answer(
        "The same text in each language",
        figures,
        ["cost = premium × tokens in the reference × price; premium = tokens / tokens of the reference's translation"],
        ["latency and the share of the context window that is used grow by the same premium"],
        ["premiums counted on the given parallel files (Petrov et al. 2023, arXiv:2305.15425)"],
        table=(("language", "premium", "characters a token", "cost"), rows),
    )


def fit_error_curve(effort: Sequence[float], error: Sequence[float]) -> tuple[float, float, float]:
    """c, a, b of error = c + a × effort^-b, by least squares over the floor c and, for each, a line in the logs.

    Args:
        effort: examples, tokens or money, all above zero.
        error: share of wrong answers, above 0 and below 1.

    Raises:
        FoundlingError: fewer than four points, or errors that do not fall.
    """
    if len(effort) != len(error) or len(effort) < MIN_CURVE_POINTS:
        what = f"{len(effort)} points are too few for a curve of three parameters"
        raise FoundlingError(what, f"{MIN_CURVE_POINTS} or more were expected")
    if min(effort) <= 0 or min(error) <= 0 or max(error) >= 1 or len(set(effort)) < MIN_CURVE_POINTS:
        raise FoundlingError("the points are not a curve", "different efforts above 0 and scores between 0 and 1")
    x, y = np.log(np.asarray(effort, float)), np.asarray(error, float)
    best = (math.inf, 0.0, 0.0, 0.0)
    for floor in np.linspace(0, 0.999 * y.min(), 400):
        slope, start = np.polyfit(x, np.log(y - floor), 1, w=y - floor)  # weights: equal errors of y, not of its log
        miss = float(((floor + np.exp(start + slope * x) - y) ** 2).sum())
        if miss < best[0]:
            best = (miss, float(floor), float(np.exp(start)), -float(slope))
    if best[3] <= 0:
        raise FoundlingError("the error does not fall with more effort", "there is no last mile to extrapolate")
    return best[1:]


def last_mile(points: Mapping[float, float], targets: Sequence[float]) -> Answer:
    """The effort that each further step of a score takes, on a fitted error curve.

    Args:
        points: effort -> score (share of right answers).
        targets: scores, rising; at least two.

    Raises:
        FoundlingError: too few points, or a target beyond the curve's floor.
    """
    if len(targets) < 2 or list(targets) != sorted(set(targets)) or not 0 < targets[0] < targets[-1] < 1:
        raise FoundlingError(f"targets are {list(targets)}", "two or more rising scores between 0 and 1 were expected")
    floor, scale, power = fit_error_curve(list(points), [1 - score for score in points.values()])
    if 1 - targets[-1] <= floor:
        what = f"a score of {targets[-1]:.1%} is beyond what the curve reaches ({1 - floor:.1%})"
        raise FoundlingError(what, "more of the same effort does not get there", "Change the method, not the amount")
    needed = [(scale / (1 - target - floor)) ** (1 / power) for target in targets]
    figures = [
        Figure(f"effort for {target:.1%}", effort, "count") for target, effort in zip(targets, needed, strict=True)
    ]
    steps = [after - before for before, after in pairwise(needed)]
    for index, step in enumerate(steps):
        figures.append(Figure(f"step {targets[index]:.1%} → {targets[index + 1]:.1%}", step, "count"))
    if len(steps) > 1:
        figures.append(Figure("the last step over the one before", steps[-1] / steps[-2], "times"))
    beyond = max(needed) / max(points)
    warnings = [f"{beyond:.0f} times the largest measured effort: an extrapolation"] if beyond > 10 else []
    return Answer(
        "The last mile",
        figures,
        [f"error = {floor:.4g} + {scale:.4g} × effort^-{power:.3g}", "effort = (a / (error - floor))^(1 / b)"],
        [f"fitted to {len(points)} points by least squares; the same kind of effort all the way"],
        ["power-law learning curves: Hestness et al. 2017, arXiv:1712.00409"],
        warnings,
    )
