"""One progress display: a live bar on a terminal, a line now and then when piped.

with progress.task("pretrain", total=1000, unit="steps") as bar:
    bar.advance(1, loss=2.31)
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from foundling.core.units import human_count, human_time

LINE_EVERY_S = 10.0

PIPED_WIDTH = 160  # columns, where there is no terminal to ask

console = Console(stderr=True, highlight=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = PIPED_WIDTH
_quiet = False
_stack: list[Progress] = []


def set_quiet(quiet: bool) -> None:
    """Show no progress at all (for --json and tests)."""
    global _quiet
    _quiet = quiet


def say(message: str) -> None:
    """Print a line for the user above the bars, unless quiet."""
    if not _quiet:
        (_stack[-1].console if _stack else console).print(message)


@dataclass
class Bar:
    """A running task. `advance` counts work done and shows the numbers that matter."""

    description: str
    total: float | None
    unit: str
    even: bool = True
    done: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _last_line: float = field(default_factory=time.monotonic)
    _live: Progress | None = None
    _task: object = None

    def advance(self, n: float = 1, **numbers: float) -> None:
        """Count `n` more units; `numbers` (loss=..., bpb=...) replace those shown."""
        self.done += n
        self.numbers.update(numbers)
        if self._live is not None:
            self._live.update(self._task, completed=self.done, info=self._info())  # type: ignore[arg-type]
        elif self.even and not _quiet and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(f"  {self.description}: {self._info()}", file=sys.stderr, flush=True)

    def rate(self) -> float:
        """Units a second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)

    def _info(self) -> str:
        of = f"/{human_count(self.total)}" if self.total else ""
        parts = [f"{human_count(self.done)}{of} {self.unit}"]
        if self.even:
            rate = self.rate()
            parts.append(f"{rate:.2g}/s" if rate < 10 else f"{human_count(rate)}/s")
            if self.total and self.done:
                parts.append(f"{human_time(max(self.total - self.done, 0) / rate)} left")
        return ", ".join(parts + [f"{name} {value:.4g}" for name, value in self.numbers.items()])


class _Info(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("info", "")), style="cyan")


@contextlib.contextmanager
def task(description: str, total: float | None = None, unit: str = "items", even: bool = True) -> Iterator[Bar]:
    """Show a task while the block runs. Tasks may nest; total None means unknown.

    Args:
        even: the units take much the same time, so that a rate and the time left mean something.
    """
    bar = Bar(description, total, unit, even)
    if _quiet or not console.is_terminal:
        yield bar
        return
    live = _stack[-1] if _stack else _new_display()
    _stack.append(live)
    bar._live, bar._task = live, live.add_task(description, total=total, info="")
    try:
        if len(_stack) == 1:
            live.start()
        yield bar
    finally:
        live.remove_task(bar._task)  # type: ignore[arg-type]
        _stack.pop()
        if not _stack:
            live.stop()


def _new_display() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), _Info())
    return Progress(*columns, console=console, transient=True, refresh_per_second=5)
