"""Plan against actual: ten training runs of different sizes, architectures, batch shapes and objectives.

    python benchmarks/planning.py [--repeats 3] [--seconds 8]      the table of docs/planning.md
    python benchmarks/planning.py calibrate                        the factors of planning/step_time.py, from other runs

Every run is a process of its own, on one thread. Beside each the machine's rates are measured again; the plan is made
from those. Time is the processor time of `Trainer.fit` (its dry run and last checkpoint included): on a machine that
others use too, the clock would measure them. Memory is the process's resident peak. Bounds: the median of the repeats
within 25% in time and 10% in memory.
"""

from __future__ import annotations

import argparse
import json
import os
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
    """An objective that notes the processor time at every batch, for the time of a step without the first ones."""

    def __init__(self, objective: Any) -> None:
        self.objective, self.at = objective, []

    def batch(self, step: int, model: Any = None) -> Any:
        self.at.append(time.process_time())
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
            start, clock = time.process_time(), time.perf_counter()
            Trainer(build(shape, 0), objective, options, folder, log=folder / "log.jsonl").fit()
            took, clock = time.process_time() - start, time.perf_counter() - clock
    return {
        "steps": steps,
        "planned_s": planned_seconds(shape, options, rates),
        "clock_s": clock,
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
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=alone)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def check(repeats: int, seconds: float) -> None:
    head = [
        "run",
        "parameters",
        "rows × tokens",
        "narrow bf16 GFLOP/s",
        "planned s",
        "actual s",
        "ratio",
        "planned MB",
        "actual MB",
        "ratio",
    ]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    worst = [0.0, 0.0]
    for name, case in CHECKS.items():
        runs = [in_a_process(case, seconds) for _ in range(repeats)]
        options = options_of(case, 1)
        time_ratio = statistics.median(run["actual_s"] / run["planned_s"] for run in runs)
        memory_ratio = statistics.median(run["actual_bytes"] / run["planned_bytes"] for run in runs)
        worst = [max(w, abs(r - 1)) for w, r in zip(worst, (time_ratio, memory_ratio), strict=True)]
        middle = {
            key: statistics.median(run[key] for run in runs)
            for key in ("planned_s", "actual_s", "planned_bytes", "actual_bytes")
        }
        rate = statistics.median(run["rates"]["small_bf16"] for run in runs)
        cells = [
            name,
            f"{runs[0]['parameters'] / 1e6:.2f}M",
            f"{options.batch_size} × {options.context}",
            f"{rate / 1e9:.0f}",
        ]
        cells += [f"{middle['planned_s']:.1f}", f"{middle['actual_s']:.1f}", f"{time_ratio:.2f}"]
        cells += [f"{middle['planned_bytes'] / 1e6:.0f}", f"{middle['actual_bytes'] / 1e6:.0f}", f"{memory_ratio:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(
        f"\nMedians of {repeats} runs; ratios are actual over planned, each run against the rates measured beside it."
    )
    print(f"Largest miss: {worst[0]:.0%} in time (bound 25%), {worst[1]:.0%} in memory (bound 10%).")


def calibrate(seconds: float, out: Path | None) -> None:
    """Non-negative least squares on relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    runs = {}
    for name, case in CALIBRATION.items():
        runs[name] = in_a_process(case, seconds)
        print(name, json.dumps(runs[name]), flush=True)
        if out:
            out.write_text(json.dumps(runs))
    work = np.array([list(run["work"].values()) for run in runs.values()])
    steps = np.array([run["step_s"] for run in runs.values()])
    factors, _ = nnls(work / steps[:, None], np.ones(len(steps)))
    names = list(next(iter(runs.values()))["work"])
    print("FACTORS =", ", ".join(f"{name}={value:.3g}" for name, value in zip(names, factors, strict=True)))
    for name, guess, real in zip(runs, work @ factors, steps, strict=True):
        print(f"  {name:<18} {real * 1000:8.1f} ms, fitted {guess * 1000:8.1f}, ratio {real / guess:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="check", choices=("check", "calibrate", "one"))
    parser.add_argument("case", nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what == "one":
        print(json.dumps(one_run(json.loads(options.case), options.seconds)))
        return
    if options.what == "calibrate":
        calibrate(options.seconds, options.out)
    else:
        check(options.repeats, options.seconds)


if __name__ == "__main__":
    main()
