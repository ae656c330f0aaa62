"""Run a benchmark, keep its output, and make docs/benchmarks.md from everything that was kept.

python benchmarks/record.py crash --recipe tiny --kills 20     # runs benchmarks/crash.py and records it
python benchmarks/record.py pretrain speed                     # the first word after it belongs to the name
python benchmarks/record.py                                    # only makes the page again
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

from foundling.core.environment import environment
from foundling.core.hardware import describe

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
INTRODUCTION = """# Benchmarks

What was measured, by which command, on which machine. Machines are noisy: read ratios and medians, not single times.
This page is made by `python benchmarks/record.py`; each section is the output of the command above it.
"""


def record(script: str, arguments: list[str]) -> int:
    """Run benchmarks/SCRIPT.py, show its output and keep it under results/."""
    command = [sys.executable, str(HERE / f"{script}.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode == 0:
        versions = ", ".join(f"{name} {version}" for name, version in environment().items())
        shown = " ".join(["python", f"benchmarks/{script}.py", *arguments])
        today = datetime.date.today().isoformat()
        RESULTS.mkdir(exist_ok=True)
        text = f"{shown}\n{describe()}, {today}; {versions}\n\n{done.stdout.strip()}\n"
        name = f"{script}_{arguments[0]}" if arguments and arguments[0].isalpha() else script
        (RESULTS / f"{name}.txt").write_text(text, encoding="utf-8")
    return done.returncode


def write_page() -> None:
    """docs/benchmarks.md from the kept outputs."""
    parts = [INTRODUCTION]
    for path in sorted(RESULTS.rglob("*.txt")):
        command, machine, _, *output = path.read_text(encoding="utf-8").splitlines()
        title = path.relative_to(RESULTS).with_suffix("").as_posix().replace("_", " ")
        parts.append(f"## {title}\n\n`{command}`\n\n{machine}\n\n```\n" + "\n".join(output) + "\n```\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    code = record(sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else 0
    write_page()
    sys.exit(code)
