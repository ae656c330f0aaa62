"""Build, fine-tune or buy: fixed and variable costs against the tokens served, where they meet, what moves that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.core.report import PALETTE
from foundling.core.units import human_count
from foundling.planning.answer import Answer, Figure, not_negative, positive

HORIZON = 12.0  # months
SWING = 0.5  # each input is halved and raised by half
NEVER = float("inf")


@dataclass(frozen=True)
class Way:
    """One way to get an answer served.

    Attributes:
        fixed: paid once: training, data, people.
        monthly: paid whatever is served: reserved machines, upkeep.
        per_million: paid for a million tokens.
    """

    name: str
    fixed: float
    monthly: float
    per_million: float

    def total(self, tokens_per_month: float, months: float) -> float:
        """All that is paid over some months."""
        return self.fixed + months * (self.monthly + tokens_per_month / 1e6 * self.per_million)


def break_even(own: Way, bought: Way, months: float) -> float:
    """Tokens a month above which `own` is cheaper over the months; infinity if it never is."""
    saving = (bought.per_million - own.per_million) / 1e6 * months
    extra = own.fixed - bought.fixed + months * (own.monthly - bought.monthly)
    if extra <= 0:
        return 0.0 if saving >= 0 else NEVER
    return extra / saving if saving > 0 else NEVER


def sensitivity(own: Way, bought: Way, months: float) -> list[tuple[str, float, float]]:
    """(input, break-even with it halved, with it raised by half), the most telling input first."""
    changed = {
        f"{bought.name}: price of 1M tokens": lambda f: (
            own,
            replace(bought, per_million=bought.per_million * f),
            months,
        ),
        f"{own.name}: price of 1M tokens": lambda f: (replace(own, per_million=own.per_million * f), bought, months),
        f"{own.name}: fixed cost": lambda f: (replace(own, fixed=own.fixed * f), bought, months),
        f"{own.name}: monthly cost": lambda f: (replace(own, monthly=own.monthly * f), bought, months),
        "months": lambda f: (own, bought, months * f),
    }
    rows = [(name, break_even(*at(1 - SWING)), break_even(*at(1 + SWING))) for name, at in changed.items()]
    rows = [row for row in rows if row[1] != row[2]]
    return sorted(rows, key=lambda row: -max(row[1], row[2]) / max(min(row[1], row[2]), 1e-9))


def compare(ways: Sequence[Way], tokens_per_month: float, months: float = HORIZON, plot: Path | None = None) -> Answer:
    """Which way is cheapest at a volume, where each breaks even with the first, and how sure that is.

    Args:
        ways: the first is what the others are compared with (buying, usually).
        plot: a PNG to write: cost against volume, and the break-even's sensitivity.

    Raises:
        FoundlingError: a cost below zero, no tokens, or only one way.
    """
    if len(ways) < 2:
        raise FoundlingError("there is only one way to compare", "give the costs of a second one")
    for way in ways:
        for what, value in (("fixed", way.fixed), ("monthly", way.monthly), ("per-million-token", way.per_million)):
            not_negative(f"{way.name}'s {what} cost", value)
    volume, months = positive("tokens a month", tokens_per_month), positive("months", months)
    bought, *own = ways
    cheapest = min(ways, key=lambda way: way.total(volume, months))
    figures = [Figure(f"{way.name}, over {months:g} months", way.total(volume, months), "money") for way in ways]
    figures += [
        Figure(
            f"{way.name} breaks even with {bought.name} at (tokens a month)", break_even(way, bought, months), "tokens"
        )
        for way in own
    ]
    rows = [
        (way.name, name, _volume(low), _volume(high))
        for way in own
        for name, low, high in sensitivity(way, bought, months)
    ]
    return Answer(
        f"At {human_count(volume)} tokens a month, {cheapest.name} is the cheapest",
        figures,
        [
            "total = fixed + months × (monthly + tokens a month / 1e6 × price of 1M)",
            "break-even = (difference of fixed and monthly costs) / (difference of prices × months)",
        ],
        [f"each input by itself, {SWING:.0%} less and more; no discounting; prices stay what they are"],
        ["training is a fixed cost and inference a variable one: prices as given"],
        [f"{way.name} never breaks even" for way in own if break_even(way, bought, months) == NEVER],
        (("way", "input", f"break-even at -{SWING:.0%}", f"at +{SWING:.0%}"), rows) if rows else None,
        [str(draw(ways, volume, months, plot))] if plot else [],
    )


def _volume(tokens: float) -> str:
    return "never" if tokens == NEVER else human_count(tokens)


def draw(ways: Sequence[Way], volume: float, months: float, path: Path) -> Path:
    """Cost against volume, and what moves the first own way's break-even."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    from foundling.planning.scaling_plots import plain_ticks

    bought, *own = ways
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    crossings = [at for at in (break_even(way, bought, months) for way in own) if 0 < at < NEVER]
    tokens = np.geomspace(min([volume, *crossings]) / 10, max([volume, *crossings]) * 10, 200)
    for way, color in zip(ways, PALETTE, strict=False):
        left.plot(tokens, [way.total(t, months) for t in tokens], color=color, lw=2, label=way.name)
    for at in crossings:
        left.axvline(at, color="#8a8f98", ls=":", lw=1)
        left.annotate(
            human_count(at), (at, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="right", fontsize=9
        )
    left.axvline(volume, color="#1c2333", ls="--", lw=1, label=f"planned: {human_count(volume)}")
    left.set(xscale="log", yscale="log", xlabel="tokens a month", ylabel=f"cost over {months:g} months")
    plain_ticks(left.xaxis, human_count)
    plain_ticks(left.yaxis, human_count)
    left.set_title("What each way costs")
    left.legend(frameon=False)
    _tornado(right, own[0], bought, months)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _tornado(plot: Any, own: Way, bought: Way, months: float) -> None:
    from foundling.planning.scaling_plots import plain_ticks

    rows = list(reversed(sensitivity(own, bought, months)))
    middle = break_even(own, bought, months)
    ends = [end for _, low, high in rows for end in (low, high) if 0 < end < NEVER] + (
        [middle] if 0 < middle < NEVER else []
    )
    if not ends:
        plot.set_axis_off()
        plot.text(
            0.5,
            0.5,
            f"{own.name} never breaks even, whatever is halved or raised",
            ha="center",
            va="center",
            transform=plot.transAxes,
        )
        return
    most, least = max(ends) * 2, min(ends) / 2
    for row, (_, low, high) in enumerate(rows):
        for end, color in ((low, PALETTE[0]), (high, PALETTE[1])):
            shown = min(max(end, least), most)
            plot.plot([min(max(middle, least), most), shown], [row, row], color=color, lw=9, solid_capstyle="butt")
            if end == NEVER:
                plot.text(shown, row, " never", va="center", fontsize=8)
    plot.axvline(middle, color="#1c2333", lw=1)
    plot.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    plot.set(xscale="log", xlabel="break-even, tokens a month")
    plain_ticks(plot.xaxis, human_count)
    plot.set_title(f"{own.name}: inputs {SWING:.0%} less (blue) and more (orange)")
