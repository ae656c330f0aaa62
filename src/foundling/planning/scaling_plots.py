"""A fitted law as a picture: the runs, the law's lines, the optimum's frontier, and what is extrapolated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foundling.core.report import PALETTE
from foundling.core.units import human_count
from foundling.planning.scaling_fit import Fit
from foundling.planning.scaling_law import Law

LINES = 8  # sizes that get a line of their own


def draw_fit(fit: Fit, targets: list[tuple[float, float]], path: Path) -> Path:
    """Loss against compute, and predicted against measured; a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained", width_ratios=(3, 2))
    _losses(left, fit, targets)
    _residuals(right, fit)
    for axes in (left, right):
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _losses(axes: Any, fit: Fit, targets: list[tuple[float, float]]) -> None:
    runs, law = fit.runs, fit.law
    colors = axes.scatter(runs.flops, runs.loss, c=runs.parameters, norm="log", s=18, cmap="viridis", zorder=3)
    bar = axes.figure.colorbar(colors, ax=axes, label="parameters")
    plain_ticks(bar.ax.yaxis, human_count)
    sizes = np.unique(runs.parameters)
    for size in sizes[np.linspace(0, len(sizes) - 1, min(LINES, len(sizes))).astype(int)]:
        own = runs.flops[runs.parameters == size]
        c = np.geomspace(own.min() / 2, own.max() * 2, 60)
        axes.plot(c, [law.loss(size, x / 6 / size) for x in c], color="#b7bdc9", lw=0.8, zorder=1)
    ends = [runs.flops.min(), runs.flops.max(), *(6 * n * d for n, d in targets)]
    frontier = np.geomspace(min(ends), max(ends) * 2, 80)
    low, high = zip(*(_span(law, x) for x in frontier), strict=True)
    axes.fill_between(frontier, low, high, color=PALETTE[0], alpha=0.15, lw=0)
    axes.plot(frontier, [law.optimum(x).loss for x in frontier], color=PALETTE[0], lw=2, label="best split, 95%")
    for parameters, tokens in targets:
        guess = fit.predict(parameters, tokens)
        at = 6 * parameters * tokens
        axes.errorbar(
            [at], [guess.loss], [[guess.loss - guess.low], [guess.high - guess.loss]], fmt="D", color=PALETTE[1]
        )
        name = f"{human_count(parameters)} on {human_count(tokens)}"
        axes.annotate(name, (at, guess.high), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    axes.axvline(runs.flops.max(), color="#8a8f98", ls=":", lw=1, label="largest fitted run")
    axes.set(xscale="log", yscale="log", xlabel="training FLOPs (6ND)", ylabel="loss")
    plain_ticks(axes.yaxis, "{:.3g}".format)
    axes.set_title(f"L = {law.formula()}", fontsize=10)
    axes.legend(frameon=False)


def plain_ticks(axis: Any, show: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis that people read: few, at 1, 2 and 5, and not as powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    steps = [1.0, 2.0, 5.0] if high < 100 * low else [1.0]
    if high < 4 * low:
        steps = np.arange(1.0, 10.0, 0.2 if high < 2 * low else 0.5).tolist()
    axis.set_major_locator(LogLocator(subs=steps, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axis.set_minor_formatter(NullFormatter())


def _span(law: Law, flops: float) -> tuple[float, float] | tuple[None, None]:
    return law.interval(lambda one: one.optimum(flops).loss)


def _residuals(axes: Any, fit: Fit) -> None:
    axes.axhline(0, color="#1c2333", lw=1)
    axes.plot(fit.runs.flops, 100 * np.expm1(fit.residuals), "o", ms=4, color=PALETTE[0], alpha=0.7)
    axes.set(xscale="log", xlabel="training FLOPs (6ND)", ylabel="predicted over measured loss, %")
    axes.set_title("What the law leaves over", fontsize=10)
