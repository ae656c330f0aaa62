"""Does each post-training method improve on where it starts? The graded task, budgets fixed beforehand, paired tests.

    python benchmarks/post_training_methods.py LIFE/sft --store runs          # every method, then the table
    python benchmarks/post_training_methods.py LIFE/sft --only dpo grpo       # some; finished ones are reused

All methods start from the same model and are scored on the same held-out items (compositions and phrasings, half
each), greedily, each against the start with McNemar's mid-p test, corrected with Holm's method over all methods shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from foundling.core.artifacts import Artifact, Store
from foundling.core.config import parse
from foundling.core.stages import run_stage
from foundling.evaluation.statistics import holm, mcnemar_mid_p, wilson
from foundling.evaluation.tasks.expressions import generate, grade, messages
from foundling.inference.model import load
from foundling.pipeline import STAGES

# name: (stage, config). Budgets are in samples and steps, not in time, so that a result can be made again.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "rejection sampling": ("sft", {"data": ["own-expressions"], "examples": 1500, "keep": 2, "learning_rate": 3e-4,
                                   "matrix_learning_rate": 3e-3}),
    "dpo": ("prefer", {"examples": 1500, "samples": 8, "pairs_per_prompt": 2, "sft_weight": 0.2}),
    "kto": ("prefer", {"method": "kto", "examples": 1500, "samples": 8, "pairs_per_prompt": 2}),
    "grpo": ("reinforce", {"steps": 40, "prompts": 48}),
    "ppo": ("reinforce", {"method": "ppo", "steps": 40, "updates": 2, "prompts": 48, "kl": 0.02}),
}  # fmt: skip
SHORT = {"rs": "rejection sampling"}


def main() -> None:
    """Run, score, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", default="runs")
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    store = Store(Path(arguments.store))
    start = store.resolve(arguments.model, "model") or Artifact.outside(Path(arguments.model), "model")
    before = passes(start.path, arguments.items)
    print(f"{'start':20} pass@1 {shown(before)}", flush=True)
    found = {}
    for name in [SHORT.get(name, name) for name in arguments.only]:
        verb, fields = METHODS[name]
        config = parse(STAGES[verb].config_type, fields | {"seed": arguments.seed}, name)
        made, _ = run_stage(store, STAGES[verb], config, {"base": start})
        found[name] = (passes(made.path, arguments.items), float(made.run.get("seconds", 0)))
        print(f"{name:20} pass@1 {shown(found[name][0])}  {found[name][1]:.0f} s", flush=True)
    tests = [paired(before, after) for after, _ in found.values()]
    print("\nagainst the start:")
    for (name, (after, _)), p in zip(found.items(), holm(tests), strict=True):
        gain = (sum(after) - sum(before)) / len(before)
        print(f"{name:20} {gain:+.3f}   Holm-corrected p = {p:.2g}")


def passes(directory: Path, items: int) -> list[bool]:
    """Whether the greedy answer to each held-out item is right. The items' seed is not the one of any stage."""
    model = load(directory)
    asked = [item for split in ("compositions", "phrasings") for item in generate(split, items // 2, seed=99)]
    requests = [model.request(messages(item), max_tokens=48) for item in asked]
    answers = [completion.text for completion in model.engine.generate(requests)]
    return [outcome.passed for outcome in grade(asked, answers)]


def paired(before: list[bool], after: list[bool]) -> float:
    """McNemar's mid-p over items right on one side only."""
    pairs = list(zip(before, after, strict=True))
    return mcnemar_mid_p(sum(b and not a for b, a in pairs), sum(a and not b for b, a in pairs))


def shown(passed: list[bool]) -> str:
    """A share with its interval."""
    interval = wilson(sum(passed), len(passed))
    return f"{sum(passed) / len(passed):.3f} [{interval.low:.3f}, {interval.high:.3f}] of {len(passed)}"


if __name__ == "__main__":
    main()
