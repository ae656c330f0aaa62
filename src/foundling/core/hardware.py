"""What this machine can do: its peaks measured, not guessed, so that every speed can stand beside its limit."""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from foundling.core import progress

if TYPE_CHECKING:
    import torch

NARROW = 256
PIECES = 16
LEAST_SECONDS = 0.25  # of trying each rate: shorter, another process may hold a core all the while
MOST_TRIES = 4
SPEEDS = ("bandwidth", "fp32", "bf16", "small_fp32", "small_bf16", "elementwise", "softmax")
WATTS_PER_CORE = 10.0  # assumption for energy estimates on a CPU: package power over cores, typical of servers


@dataclass(frozen=True)
class Rates:
    """Measured limits: memory bandwidth in bytes/s, matrix rates in FLOP/s (multiply and add count as two).

    Attributes:
        small_fp32, small_bf16: matrix rates on products as narrow as a small model's (256 wide).
        elementwise: values/s of a bfloat16 SiLU, as activations need.
        softmax: values/s of a float32 softmax of bfloat16 rows, as a loss over a vocabulary needs.
    """

    bandwidth: float
    fp32: float
    bf16: float
    threads: int
    device: str
    small_fp32: float = 0.0
    small_bf16: float = 0.0
    elementwise: float = 0.0
    softmax: float = 0.0

    def __post_init__(self) -> None:
        guesses = {"small_fp32": self.fp32, "small_bf16": self.bf16}
        guesses |= {"elementwise": self.bandwidth / 4, "softmax": self.bandwidth / 10}
        for name, guess in guesses.items():  # of a two-core machine of which only the large rates are known
            object.__setattr__(self, name, getattr(self, name) or guess)

    def plausible(self) -> bool:
        """Whether the rates go together as on a machine that does nothing else."""
        usual = self.bandwidth / 40, self.bandwidth / 100, self.bf16 / 8
        return all(
            rate > least for rate, least in zip((self.elementwise, self.softmax, self.small_bf16), usual, strict=True)
        )

    def matmul(self, precision: str) -> float:
        """The matrix rate at a precision: "fp32", "bf16", or "fp8", which is held against bf16's."""
        return self.fp32 if precision == "fp32" else self.bf16

    def small_matmul(self, precision: str) -> float:
        """The matrix rate on narrow products."""
        return self.small_fp32 if precision == "fp32" else self.small_bf16


def threads() -> int:
    """Processors this process may use (respects affinity and OMP_NUM_THREADS)."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else available


def device() -> torch.device:
    """Where models are trained and scored: this process's GPU (the one of its LOCAL_RANK), or the CPU."""
    import torch

    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def memory_bytes() -> int:
    """Physical memory of the machine in bytes."""
    return int(psutil.virtual_memory().total)


def describe() -> str:
    """One line about the machine: processor, cores, memory."""
    return f"{_processor()}, {threads()} core{'s' if threads() > 1 else ''}, {memory_bytes() / 2**30:.0f} GiB"


@cache
def has_tiles() -> bool:
    """Whether this machine's CPU has tiles for bfloat16 products (AMX), and native kernels are not switched off."""
    info = Path("/proc/cpuinfo")
    return (
        os.environ.get("FOUNDLING_NATIVE") != "0"
        and info.is_file()
        and "amx_bf16" in info.read_text(encoding="utf-8", errors="replace").split()
    )


@cache
def measure() -> Rates:
    """Measure the limits of the default device (about two seconds on a CPU; kept for the process).

    A process that takes one of our cores can make a rate thirty times too low: then it is measured again.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    where, size, bytes_ = ("cuda", 8192, 4 << 30) if on_gpu else ("cpu", 1536, 1 << 28)
    rates = _measure_on(torch.device(where), size, bytes_)
    for _ in range(MOST_TRIES - 1):
        if rates.plausible():
            break
        again = _measure_on(torch.device(where), size, bytes_)
        speeds = {name: max(getattr(rates, name), getattr(again, name)) for name in SPEEDS}
        rates = replace(rates, **speeds)
    return rates


def remembered(path: Path) -> Rates:
    """The rates measured earlier on this machine and kept in `path`, or measured now and written there."""
    signature = describe()
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved.pop("machine", None) == signature and set(saved) == {field.name for field in fields(Rates)}:
            return Rates(**saved)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    rates = measure()
    path.write_text(json.dumps({"machine": signature, **asdict(rates)}))
    progress.say(f"Measured this machine once, in {time.perf_counter() - start:.1f} s; kept in {path}.")
    return rates


def _measure_on(device: torch.device, size: int, bytes_: int) -> Rates:
    import torch

    def matrix_rate(dtype: torch.dtype, rows: int = size, width: int = size) -> float:
        a, b = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, width, device=device).to(dtype)
        return 2 * rows * width**2 / _best_seconds(lambda: a @ b.T, device)

    block = torch.ones(bytes_ // 4, device=device)
    pieces = itertools.cycle(block.chunk(PIECES))  # short ones: one of them meets no other process
    bandwidth = bytes_ / PIECES / _best_seconds(lambda: next(pieces).sum(), device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    x = torch.randn(4096, NARROW, device=device, dtype=torch.bfloat16)
    return Rates(
        bandwidth,
        matrix_rate(torch.float32),
        matrix_rate(torch.bfloat16),
        threads(),
        name,
        small_fp32=matrix_rate(torch.float32, *x.shape),
        small_bf16=matrix_rate(torch.bfloat16, *x.shape),
        elementwise=x.numel() / _best_seconds(lambda: torch.nn.functional.silu(x), device),
        softmax=x.numel() / _best_seconds(lambda: torch.softmax(x.view(NARROW, -1), -1, dtype=torch.float32), device),
    )


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    import torch

    best, begin = float("inf"), time.perf_counter()
    while repeats >= 0 or time.perf_counter() - begin < LEAST_SECONDS:
        repeats -= 1
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
