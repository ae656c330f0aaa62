"""Evaluates untrusted Python expressions in warm, limited worker processes.

An expression is checked against a list of what is allowed and evaluated by `sandbox_worker`, in another process that
has no access to ours. One that hangs, crashes or asks for a terabyte costs its own result, with the reason, and a new
worker; the others are not affected.
"""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from foundling.core import sandbox_worker

CHUNK = 64  # jobs in flight
POLL_S = 0.25


@dataclass(frozen=True)
class Job:
    """An expression and the inputs to evaluate it on: one dict of names to plain values each."""

    expression: str
    inputs: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Result:
    """One value per input, or the reason why there is none.

    Attributes:
        reason: "" | "syntax" | "not allowed" | "error" (it raised) | "too much" (steps, size) | "timeout" | "crash".
    """

    values: tuple[Any, ...] | None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Limits:
    """What one job may use. CPU time and memory are the net below the worker's own counting of steps and sizes."""

    cpu_s: float = 1.0
    wall_s: float = 20.0
    memory_bytes: int = 512 << 20


class Sandbox:
    """A pool of workers. Results do not depend on their number."""

    def __init__(self, workers: int = 1, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._workers = [_Worker(self.limits) for _ in range(workers)]
        self._locks = [threading.Lock() for _ in range(workers)]

    def evaluate(self, jobs: Sequence[Job]) -> list[Result]:
        """The result of every job, in order."""
        if len(self._workers) == 1 or len(jobs) < CHUNK:
            return self._run(0, jobs)
        share = -(-len(jobs) // len(self._workers))
        parts = [jobs[start : start + share] for start in range(0, len(jobs), share)]
        with ThreadPoolExecutor(len(parts)) as pool:
            return [result for part in pool.map(self._run, range(len(parts)), parts) for result in part]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, number: int, jobs: Sequence[Job]) -> list[Result]:
        with self._locks[number]:
            results: list[Result] = []
            while len(results) < len(jobs):
                results += self._workers[number].run(jobs[len(results) : len(results) + CHUNK])
            return results


@cache
def shared() -> Sandbox:
    """The process's own sandbox, started when first needed."""
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox


def count_reasons(results: Iterable[Result]) -> dict[str, int]:
    """How many results failed for which reason."""
    return dict(sorted(Counter(result.reason for result in results if result.reason).items()))


class _Worker:
    """One process. Started when needed, replaced when it had to be killed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: subprocess.Popen[bytes] | None = None
        self.lines: queue.Queue[bytes | None] = queue.Queue()

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """Results of the first jobs, at least one of them: all, unless one had to be killed."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(b"".join(_line(job) for job in jobs))
            process.stdin.flush()
        except (BrokenPipeError, OSError):
            self.stop()
            return [Result(None, "crash", "the worker ended")]
        results: list[Result] = []
        for _ in jobs:
            result = self._next(process)
            results.append(result)
            if result.reason in ("timeout", "crash"):
                self.stop()
                break
        return results

    def stop(self) -> None:
        """Kill the process, if there is one."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.stop()
            command = [sys.executable, "-I", "-S", str(Path(sandbox_worker.__file__)), str(self.limits.memory_bytes)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
            )
            self.lines = queue.Queue()
            threading.Thread(target=_read, args=(self.process, self.lines), daemon=True).start()
        return self.process

    def _next(self, process: subprocess.Popen[bytes]) -> Result:
        """The next line's result, or why none came."""
        used, begin = 0.0, time.monotonic()
        first: float | None = None
        while True:
            try:
                line = self.lines.get(timeout=POLL_S)
            except queue.Empty:
                try:
                    watched = psutil.Process(process.pid)
                    times, memory = watched.cpu_times(), watched.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # the reader is about to say that it ended
                first = times.user + times.system if first is None else first
                used = times.user + times.system - first + POLL_S
                if memory > 2 * self.limits.memory_bytes:
                    return Result(None, "crash", "out of memory")
                if used > self.limits.cpu_s or time.monotonic() - begin > self.limits.wall_s:
                    return Result(None, "timeout", f"more than {self.limits.cpu_s:g} s of CPU time")
                continue
            if line is None:
                return Result(None, "crash", "the worker ended")
            reason, message, values = json.loads(line)
            return Result(None if values is None else tuple(sandbox_worker.decode(v) for v in values), reason, message)


def _line(job: Job) -> bytes:
    inputs = [sandbox_worker.encode(values) for values in job.inputs]
    return json.dumps([job.expression, inputs]).encode() + b"\n"


def _read(process: subprocess.Popen[bytes], lines: queue.Queue[bytes | None]) -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.endswith(b"\n"):
                lines.put(line)
    except ValueError:  # the pipe was closed while we waited for it
        pass
    lines.put(None)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # a pipe with unsent bytes to a dead process
        return
