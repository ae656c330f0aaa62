"""Optimising a proxy: reward model, true reward and distance from the start, on the graded task.

    python benchmarks/reward_overoptimisation.py LIFE/sft --store runs

A reward model learns from few pairs of the start's own answers (graded by running them), and GRPO follows its score
with nothing that holds the model back. At every step the answers are also run, so that the true reward stands beside
the proxy's, over the KL divergence from the start (Gao et al. 2022, "Scaling laws for reward model overoptimization",
arXiv:2210.10760). The second run follows a cautious ensemble of three such models. The figure goes to
docs/images/over-optimisation.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

from foundling.core.artifacts import Artifact, Store
from foundling.core.config import parse
from foundling.core.lives import artifact_of
from foundling.core.stages import run_stage
from foundling.pipeline import STAGES

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURE = Path(__file__).parent.parent / "docs" / "images" / "over-optimisation.png"
REWARD = {"examples": 120, "samples": 8, "pairs_per_prompt": 2, "epochs": 4, "held_out": 0.3}
POLICY = {
    "prompts": 32, "samples": 8, "normalise_std": True, "matrix_learning_rate": 4e-3, "learning_rate": 4e-4,
    "log_every": 1,
}  # fmt: skip
BUCKETS = 6


def main() -> None:
    """Train the proxies, follow them, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", default="runs")
    parser.add_argument("--steps", type=int, default=72)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    store = Store(Path(arguments.store))
    start = artifact_of(store, arguments.model, "model") or Artifact.outside(Path(arguments.model), "model")
    judges = [made(store, "reward", REWARD | {"seed": seed}, {"base": start}) for seed in range(3)]
    for judge in judges:
        numbers = judge.metrics
        print(
            f"proxy: {numbers['pairs']} pairs; chooses the right one of {numbers['held_out_pairs']} held-out pairs in "
            f"{numbers['held_out_accuracy']:.3f} [{numbers['held_out_accuracy_low']:.3f}, "
            f"{numbers['held_out_accuracy_high']:.3f}], calibration error {numbers['calibration_error']:.3f}"
        )
    fields = POLICY | {"steps": arguments.steps}
    runs = {
        "one reward model": made(store, "reinforce", fields, {"base": start, "reward": judges[0]}),
        "cautious ensemble of three": made(
            store, "reinforce", fields, {"base": start, "reward": judges[0], "reward2": judges[1], "reward3": judges[2]}
        ),
    }
    curves = {name: curve(run) for name, run in runs.items()}
    for name, steps in curves.items():
        show(name, steps)
    draw(curves, arguments.figure)


def made(store: Store, verb: str, fields: dict[str, Any], inputs: dict[str, Artifact]) -> Artifact:
    """The stage's artifact, made or found."""
    config = parse(STAGES[verb].config_type, fields, verb)
    return run_stage(store, STAGES[verb], config, inputs)[0]


def curve(run: Artifact) -> list[dict[str, float]]:
    """Each step's KL from the start (nats an answer), proxy reward and true reward."""
    lines = map(json.loads, (run.path / "training.log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["metrics"] for line in lines if line["kind"] == "step"]


def show(name: str, steps: list[dict[str, float]]) -> None:
    """Means over stretches of the run, and where the true reward was best."""
    print(f"\n{name}:\n{'steps':>9} {'KL':>7} {'proxy':>7} {'true':>6}")
    size = len(steps) // BUCKETS
    means = []
    for number in range(BUCKETS):
        part = steps[number * size : (number + 1) * size]
        means.append({key: sum(step[key] for step in part) / len(part) for key in ("kl", "reward", "verified")})
        span = f"{number * size + 1}-{(number + 1) * size}"
        print(f"{span:>9} {means[-1]['kl']:7.2f} {means[-1]['reward']:7.2f} {means[-1]['verified']:6.3f}")
    best = max(means, key=lambda mean: mean["verified"])
    print(
        f"true reward: {means[0]['verified']:.3f} at first, {best['verified']:.3f} at its best (KL {best['kl']:.2f}), "
        f"{means[-1]['verified']:.3f} in the end; the proxy rose from {means[0]['reward']:.2f} to "
        f"{means[-1]['reward']:.2f}"
    )


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """KL against proxy and true reward."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for name, steps in curves.items():
        for axis, key, label in ((axes[0], "reward", "proxy: the score"), (axes[1], "verified", "true: share right")):
            kl, value = smooth([step["kl"] for step in steps]), smooth([step[key] for step in steps])
            axis.plot(kl, value, label=name, linewidth=1.6)
            axis.set(xlabel="KL from the start, nats an answer", ylabel=label)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def smooth(values: list[float], width: int = 9) -> list[float]:
    """Running means."""
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


if __name__ == "__main__":
    main()
