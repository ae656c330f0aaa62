"""Plan against actual: ten training runs of different sizes, architectures, batch shapes and objectives.

    python benchmarks/planning.py [--repeats 3] [--seconds 8]      the table of docs/planning.md
    python benchmarks/planning.py calibrate [--runs FILE]          the factors of planning/step_time.py, from other runs

Every run is a process of its own. Beside each the machine's rates are measured again; the plan is made from those. Time
is that of `Trainer.fit` by the clock, its dry run and last checkpoint included: run it on a machine that does nothing
else. Memory is the process's resident peak. Bounds: the median of the repeats within 25% in time and 10% in memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

VOCAB = 4096
# name: (preset, or design and width and layers; vocabulary; the objective and the training's fields)
CHECKS: dict[str, dict[str, Any]] = {
    "1m, default batch": {"preset": "foundling-1m"},
    "3m, default batch": {"preset": "foundling-3m"},
    "6m, long rows": {"preset": "foundling-6m", "batch_size": 4, "context": 1024},
    "12m, small batch": {"preset": "foundling-12m", "batch_size": 4},
    "3m, fp32 AdamW": {"preset": "foundling-3m", "precision": "fp32", "optimizer": "adamw", "batch_size": 8},
    "2m, masked": {"preset": "foundling-2m", "objective": "masked", "batch_size": 32, "context": 128},
    "4m, prefix LM, micro-batches": {"preset": "foundling-4m", "objective": "prefix_lm", "micro_batch": 4},
    "2m, vocabulary 32k, recompute": {
        "preset": "foundling-2m",
        "vocab": 32768,
        "recompute": "all",
        "precision": "fp32",
        "batch_size": 4,
    },
    "mixture of experts": {"design": ("moe", 256, 4)},
    "mamba2": {"design": ("mamba2", 192, 3), "batch_size": 8},
}
CALIBRATION: dict[str, dict[str, Any]] = {
    "2m": {"preset": "foundling-2m", "batch_size": 8},
    "4m": {"preset": "foundling-4m"},
    "16m": {"preset": "foundling-16m", "batch_size": 4, "context": 512},
    "4m tiny batch": {"preset": "foundling-4m", "batch_size": 2, "context": 128},
    "1m long": {"preset": "foundling-1m", "batch_size": 2, "context": 2048},
    "2m fp32": {"preset": "foundling-2m", "precision": "fp32"},
    "6m adamw": {"preset": "foundling-6m", "optimizer": "adamw", "batch_size": 8},
    "1m vocabulary 16k": {"preset": "foundling-1m", "vocab": 16384},
    "3m masked": {"preset": "foundling-3m", "objective": "masked"},
    "6m micro": {"preset": "foundling-6m", "micro_batch": 2, "batch_size": 8},
    "3m recompute": {"preset": "foundling-3m", "recompute": "all", "precision": "fp32", "batch_size": 8},
    "3m prefix": {"preset": "foundling-3m", "objective": "prefix_lm", "batch_size": 8},
    "moe": {"design": ("moe", 192, 3), "batch_size": 8},
    "mamba2": {"design": ("mamba2", 128, 4)},
    "mamba": {"design": ("mamba", 128, 3), "batch_size": 8},
    "rwkv7": {"design": ("rwkv7", 128, 3), "batch_size": 8},
}


def shape_of(case: dict[str, Any]) -> Any:
    from foundling.models.presets import preset
    from foundling.studies.architectures_designs import design
    from foundling.training.objectives.choices import BOTH_WAYS, seeing_both_ways

    vocab = case.get("vocab", VOCAB)
    shape = preset(case["preset"], vocab_size=vocab) if "preset" in case else design(*case["design"], vocab, 4096)
    return seeing_both_ways(shape) if case.get("objective") in BOTH_WAYS else shape


def options_of(case: dict[str, Any], steps: int) -> Any:
    from foundling.training.config import PretrainConfig

    return PretrainConfig(
        steps=steps, checkpoint_every_s=1e9, **{k: v for k, v in case.items() if k not in ("design", "vocab")}
    )


def objective_of(options: Any, folder: Path) -> Any:
    from foundling.training.objectives.causal import Causal
    from foundling.training.objectives.masked import Masked
    from foundling.training.objectives.prefix_lm import PrefixLM
    from foundling.training.token_files import TokenSplit

    common = (TokenSplit(folder, "train"), options.context, options.batch_size, options.seed)
    if options.objective == "masked":
        return Masked(*common, mask_id=1)
    return PrefixLM(*common) if options.objective == "prefix_lm" else Causal(*common)


def random_tokens(folder: Path, vocab: int) -> None:
    import numpy as np

    stream = np.random.default_rng(0).integers(2, vocab, size=400_000).astype("<u2")
    stream.tofile(folder / "train.bin")
    np.save(folder / "train.index.npy", np.array([0, len(stream)]))
    np.save(folder / "train.bytes.npy", np.array([len(stream)]))
    meta = {"dtype": "uint16", "vocab_size": vocab, "eot_id": 0, "splits": {"train": {}}}
    (folder / "tokens.json").write_text(json.dumps(meta))


class Timed:
    """An objective that notes the time at every batch, for the time of a step without the first ones."""

    def __init__(self, objective: Any) -> None:
        self.objective, self.at = objective, []

    def batch(self, step: int, model: Any = None) -> Any:
        self.at.append(time.perf_counter())
        return self.objective.batch(step, model)

    def loss(self, model: Any, batch: Any) -> Any:
        return self.objective.loss(model, batch)

    def step_seconds(self) -> float:
        return statistics.median(after - before for before, after in pairwise(self.at[1:]))


class Peak:
    """The largest resident memory of this process, looked at every 5 ms."""

    def __enter__(self) -> Peak:
        import psutil

        self.process, self.bytes, self.stop = psutil.Process(), 0, threading.Event()
        self.before = self.process.memory_info().rss
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.stop.wait(0.005):
            self.bytes = max(self.bytes, self.process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()


def one_run(case: dict[str, Any], seconds: float) -> dict[str, Any]:
    """In this process: measure the limits, plan, train, and say what happened."""
    from foundling.core import hardware, progress
    from foundling.models.build import build
    from foundling.planning.step_time import planned_memory, planned_seconds, step_seconds, step_work
    from foundling.training.trainer import Trainer

    progress.set_quiet(True)
    rates = hardware.measure()
    shape = shape_of(case)
    steps = max(5, round(seconds / step_seconds(shape, options_of(case, 1), rates)))
    options = options_of(case, steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_tokens(folder, shape.vocab_size)
        objective = Timed(objective_of(options, folder))
        with Peak() as peak:
            start = time.perf_counter()
            Trainer(build(shape, 0), objective, options, folder, log=folder / "log.jsonl").fit()
            took = time.perf_counter() - start
    return {
        "steps": steps,
        "planned_s": planned_seconds(shape, options, rates),
        "actual_s": took,
        "step_s": objective.step_seconds(),
        "planned_bytes": planned_memory(shape, options),
        "actual_bytes": peak.bytes,
        "before_bytes": peak.before,
        "parameters": shape.n_parameters(),
        "rates": asdict(rates),
        "work": vars(step_work(shape, options, rates)),
    }


def in_a_process(case: dict[str, Any], seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "one", json.dumps(case), "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


HEAD = ("run", "parameters", "rows × tokens", "narrow bf16 GFLOP/s", "planned s", "actual s", "ratio", "planned MB")
HEAD += ("actual MB", "ratio")


def report(cases: dict[str, dict[str, Any]], runs: dict[str, list[dict[str, Any]]]) -> None:
    """The table, planned anew from the rates that were measured beside each run."""
    from foundling.core.hardware import Rates
    from foundling.planning.step_time import planned_memory, planned_seconds

    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    worst = [0.0, 0.0]
    for name, done in runs.items():
        shape = shape_of(cases[name])
        options = [options_of(cases[name], run["steps"]) for run in done]
        planned = [planned_seconds(shape, o, Rates(**run["rates"])) for o, run in zip(options, done, strict=True)]
        memory = planned_memory(shape, options[0])
        took = statistics.median(run["actual_s"] / plan for run, plan in zip(done, planned, strict=True))
        peak = statistics.median(run["actual_bytes"] for run in done)
        worst = [max(worst[0], abs(took - 1)), max(worst[1], abs(peak / memory - 1))]
        rate = statistics.median(run["rates"]["small_bf16"] for run in done)
        cells = [name, f"{done[0]['parameters'] / 1e6:.2f}M", f"{options[0].batch_size} × {options[0].context}"]
        cells += [f"{rate / 1e9:.0f}", f"{statistics.median(planned):.1f}"]
        cells += [f"{statistics.median(run['actual_s'] for run in done):.1f}", f"{took:.2f}"]
        cells += [f"{memory / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{peak / memory:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nRepeats of each: {len(done)}. Ratios are actual over planned, from the rates measured beside each run.")
    print(f"Largest miss: {worst[0]:.0%} in time (bound 25%), {worst[1]:.0%} in memory (bound 10%).")


def fit_factors(runs: dict[str, list[dict[str, Any]]]) -> None:
    """The factors that fit the steps' times best, in relative error; none below its physical limit."""
    import numpy as np
    from scipy.optimize import lsq_linear

    from foundling.core.hardware import Rates
    from foundling.planning.step_time import step_work

    work, seconds = [], []
    for name, done in runs.items():
        shape, options = shape_of(CALIBRATION[name]), options_of(CALIBRATION[name], 1)
        for run in done:
            work.append(vars(step_work(shape, options, Rates(**run["rates"]))))
            seconds.append(run["step_s"])
    names = list(work[0])
    floors = {"products": 1.1, "attention": 1.5, "tiles": 1.5, "orthogonal": 1.0, "optimizer": 1.0}
    shares = np.array([list(row.values()) for row in work]) / np.array(seconds)[:, None]
    low = [floors.get(name, 0.0) for name in names]
    found = lsq_linear(shares, np.ones(len(seconds)), (low, np.inf)).x
    print("\nBest factors:", ", ".join(f"{name}={value:.3g}" for name, value in zip(names, found, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="check", choices=("check", "calibrate", "one"))
    parser.add_argument("case", nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of training, in each run")
    parser.add_argument("--runs", type=Path, help="JSON of runs: read if it is there (nothing is run), else written")
    options = parser.parse_args()
    if options.what == "one":
        print(json.dumps(one_run(json.loads(options.case), options.seconds)))
        return
    cases = CALIBRATION if options.what == "calibrate" else CHECKS
    if options.runs and options.runs.is_file():
        runs = json.loads(options.runs.read_text())
    else:
        runs = {
            name: [in_a_process(case, options.seconds) for _ in range(options.repeats)] for name, case in cases.items()
        }
        if options.runs:
            options.runs.write_text(json.dumps(runs))
    report(cases, runs)
    if options.what == "calibrate":
        fit_factors(runs)


if __name__ == "__main__":
    main()
