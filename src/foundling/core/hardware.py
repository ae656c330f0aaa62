"""What this machine can do: its peaks measured, not guessed, so that every speed can stand beside its limit."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

WATTS_PER_CORE = 10.0  # assumption for energy estimates on a CPU: package power over cores, typical of servers


@dataclass(frozen=True)
class Rates:
    """Measured limits: memory bandwidth in bytes/s, matrix rates in FLOP/s (multiply and add count as two)."""

    bandwidth: float
    fp32: float
    bf16: float
    threads: int
    device: str

    def matmul(self, precision: str) -> float:
        """The matrix rate at a precision: "fp32" or "bf16"."""
        return self.bf16 if precision == "bf16" else self.fp32


def threads() -> int:
    """Processors this process may use (respects affinity and OMP_NUM_THREADS)."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else available


def memory_bytes() -> int:
    """Physical memory of the machine in bytes."""
    return int(psutil.virtual_memory().total)


def describe() -> str:
    """One line about the machine: processor, cores, memory."""
    return f"{_processor()}, {threads()} core{'s' if threads() > 1 else ''}, {memory_bytes() / 2**30:.0f} GiB"


@cache
def measure() -> Rates:
    """Measure the limits of the default device (about two seconds on a CPU; kept for the process)."""
    import torch

    if torch.cuda.is_available():
        return _measure_on(torch.device("cuda"), size=8192, bytes_=4 << 30)
    return _measure_on(torch.device("cpu"), size=1536, bytes_=1 << 28)


def remembered(path: Path) -> Rates:
    """The rates measured earlier on this machine and kept in `path`, or measured now and written there."""
    signature = describe()
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved.pop("machine", None) == signature:
            return Rates(**saved)
    rates = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": signature, **asdict(rates)}))
    return rates


def _measure_on(device: torch.device, size: int, bytes_: int) -> Rates:
    import torch

    def matrix_rate(dtype: torch.dtype) -> float:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return 2 * size**3 / _best_seconds(lambda: a @ b, device)

    block = torch.ones(bytes_ // 4, device=device)
    bandwidth = bytes_ / _best_seconds(block.sum, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return Rates(bandwidth, matrix_rate(torch.float32), matrix_rate(torch.bfloat16), threads(), name)


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    import torch

    best = float("inf")
    for _ in range(repeats + 1):
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
