"""Kill a life at random moments, run it again, and compare every file with an undisturbed life's.

    python benchmarks/crash.py --recipe tiny --kills 20

Prints one line a kill and exits with 1 if any file differs. Logs, timings and reports may differ; nothing else.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from foundling.core.artifacts import Store, is_volatile


def start(recipe: str, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "foundling.cli.main", "run", recipe, "--store", str(store)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files(store: Path) -> dict[str, str]:
    return {
        f"{artifact.kind}/{artifact.key}/{name}": entry["sha256"]
        for artifact in Store(store).artifacts()
        if artifact.kind != "report"
        for name, entry in artifact.manifest["files"].items()
        if not is_volatile(name)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="foundling-crash-"))
    began = time.monotonic()
    if start(options.recipe, folder / "whole").wait() != 0:
        print("the undisturbed life failed")
        return 1
    whole, expected = time.monotonic() - began, files(folder / "whole")
    print(f"undisturbed: {whole:.0f} s, {len(expected)} files; {os.cpu_count()} processors", flush=True)
    moments = random.Random(options.seed)
    failures = 0
    for number in range(options.kills):
        store, moment = folder / f"kill-{number}", moments.uniform(0.02, 0.98) * whole
        store.mkdir()
        process = start(options.recipe, store)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        at = len(list(store.glob("artifacts/*/*")))
        code = start(options.recipe, store).wait()
        same = code == 0 and files(store) == expected
        failures += not same
        print(
            f"kill {number + 1:2} at {moment:5.1f} s ({at:2} artifacts made): {'identical' if same else 'DIFFERENT'}",
            flush=True,
        )
        shutil.rmtree(store)
    shutil.rmtree(folder)
    print(f"{options.kills - failures} of {options.kills} killed lives ended bit-identical to the undisturbed one")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
