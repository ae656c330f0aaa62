"""Run the quickstart several times in fresh stores and print the median of what it promises.

    python benchmarks/quickstart.py --runs 3 [--set base.seed=1 ...]

Promises: at most 10 minutes and 3 GB on two cores; at most 1.65 bits per byte on held-out files of the standard
library, and below the n-gram model; the tuned model better than SFT, or the report says that it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def life(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    sets = [item for override in [f"seed={seed}", *overrides] for item in ("--set", override)]
    command = [sys.executable, "-m", "foundling.cli.main", "run", "quickstart", "--json", *sets]
    began = time.monotonic()
    done = subprocess.run([*command, "--store", str(folder)], stdout=subprocess.PIPE, check=True)
    stages = json.loads(done.stdout)["stages"]
    base, scores = stages["base"]["metrics"], lambda name: stages[f"evaluate-{name}"]["metrics"]
    return {
        "seconds": time.monotonic() - began,
        "bits_per_byte": base["validation_bits_per_byte"],
        "baselines": base["baseline_bits_per_byte"],
        "pass@1": {
            name: scores(name)["expressions.pass@1"]["value"] for name in ("control", "sft", "tuned", "int8", "int4")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    results = []
    for seed in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            results.append(life(seed, Path(folder), options.overrides))
        print(json.dumps(results[-1]), flush=True)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"\n{options.runs} runs on {os.cpu_count()} processors; medians:")
    print(f"  time          {statistics.median(r['seconds'] for r in results):.0f} s (at most 600)")
    print(f"  peak memory   {memory / 1e9:.2f} GB (at most 3), largest process of any run")
    print(f"  bits per byte {statistics.median(r['bits_per_byte'] for r in results):.3f} (at most 1.65)")
    for name in results[0]["baselines"]:
        print(f"    {name:<11} {statistics.median(r['baselines'][name] for r in results):.3f}")
    for name in results[0]["pass@1"]:
        print(f"  pass@1 {name:<7} {statistics.median(r['pass@1'][name] for r in results):.3f}")


if __name__ == "__main__":
    main()
