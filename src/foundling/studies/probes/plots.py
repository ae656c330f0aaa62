"""A probe's plot: accuracy of each design, against the length if several were tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot(found: dict[str, dict[str, Any]], title: str, chance: float, file: Path) -> None:
    """Lines over lengths, or bars for a single length; the range over seeds is drawn, and chance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    times = [int(time) for time in next(iter(found.values()))]
    for index, (design, by_time) in enumerate(found.items()):
        scores, color = list(by_time.values()), f"C{index}"
        means, low, high = ([score[key] for score in scores] for key in ("mean", "low", "high"))
        if len(times) == 1:
            axes.bar(design, means[0], color=color)
            axes.plot([design, design], [low[0], high[0]], color="black")
        else:
            axes.plot(times, means, marker="o", ms=3, label=design, color=color)
            axes.fill_between(times, low, high, alpha=0.15, color=color)
    axes.axhline(chance, color="gray", ls=":", label="chance")
    axes.set(ylim=(0, 1.03), ylabel="accuracy", title=title.replace("_", " "))
    if len(times) > 1:
        axes.set(xlabel="length, tokens", xscale="log" if times[-1] / times[0] > 6 else "linear", xticks=times)
        axes.set_xticklabels([str(time) for time in times])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    else:
        axes.tick_params(axis="x", rotation=30)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
