"""The comparison's plots: quality with its interval, decoding speed and state against the context length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONSTANT, GROWING = "#1f77b4", "#d62728"


def plot(results: list[dict[str, Any]], directory: Path) -> None:
    """Write quality.png, decoding.png and state.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    quality(results, pyplot).savefig(directory / "quality.png", dpi=130, metadata={"Software": None})
    for file, key, label in (("decoding.png", "tokens_per_s", "decoded tokens/s"), ("state.png", "", "bytes of state")):
        figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        for index, result in enumerate(results):
            points = result["state_bytes"] if not key else [(p["context"], p[key]) for p in result["decode"]]
            grows = result["state_bytes"][-1][1] > result["state_bytes"][0][1]
            style = "-" if grows else "--"
            axes.plot(*zip(*points, strict=True), style, marker="o", ms=3, color=f"C{index % 10}", label=result["name"])
        axes.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel=label)
        axes.set_title("solid: grows with the context; dashed: constant", fontsize=9)
        axes.legend(fontsize=8, ncols=2)
        axes.grid(alpha=0.3)
        figure.savefig(directory / file, dpi=130, metadata={"Software": None})
        pyplot.close(figure)
    pyplot.close("all")


def quality(results: list[dict[str, Any]], pyplot: Any) -> Any:
    """Bits per byte of each design with its interval, best at the top."""
    figure, axes = pyplot.subplots(figsize=(7, 0.4 * len(results) + 1.2), layout="constrained")
    for row, result in enumerate(reversed(results)):
        score = result["bits_per_byte"]
        grows = result["state_bytes"][-1][1] > result["state_bytes"][0][1]
        color = GROWING if grows else CONSTANT
        axes.plot([score["low"], score["high"]], [row, row], color=color, lw=2)
        axes.plot(score["values"], [row] * len(score["values"]), "|", color=color)
        axes.plot(score["mean"], row, "o", color=color)
    axes.set_yticks(range(len(results)), [result["name"] for result in reversed(results)])
    axes.set_xlabel("validation bits per byte (lower is better), 95% interval over seeds")
    axes.set_title("red: state grows with the context; blue: constant state", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    return figure
