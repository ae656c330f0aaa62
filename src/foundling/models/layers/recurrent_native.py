"""Small C kernels compiled once for this machine's CPU: source in, ctypes library out.

The same compiler that `torch.compile` needs is used; without one (or with FOUNDLING_NATIVE=0) `library` returns None and
the callers run their plain torch form. Builds are cached by the hash of source, flags, compiler and CPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
FLAGS = ("-O3", "-march=native", "-ffast-math", "-std=gnu11", "-shared", "-fPIC")


@cache
def library(source: str) -> ctypes.CDLL | None:
    """The compiled library, or None if this machine has no C compiler or does not want native kernels."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("FOUNDLING_NATIVE") == "0":
        return None
    target = _cache_directory() / f"{_build_hash(source, compiler)}.so"
    try:
        if not target.exists():
            _compile(source, compiler, target)
        return ctypes.CDLL(str(target))
    except subprocess.CalledProcessError as error:
        logger.warning("no native kernels, going on without: %s", error.stderr.decode(errors="replace"))
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("no native kernels, going on without: %s", error)
        return None


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    """The address of a contiguous tensor's data, NULL for None."""
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def run_tasks(function: Callable[..., None], tasks: Sequence[tuple]) -> None:
    """Call the C function once per task on as many threads as torch uses; ctypes lets go of the interpreter lock."""
    if torch.get_num_threads() == 1 or len(tasks) == 1:
        for task in tasks:
            function(*task)
        return
    list(_threads(torch.get_num_threads()).map(lambda task: function(*task), tasks))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="foundling-native")


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "foundling" / "kernels"


def _build_hash(source: str, compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    cpu_info = Path("/proc/cpuinfo")
    flags = [line for line in cpu_info.read_text().splitlines() if line.startswith("flags")] if cpu_info.exists() else []
    parts = (source, " ".join(FLAGS), version, platform.machine(), platform.processor(), *flags[:1])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _compile(source: str, compiler: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        code, built = Path(scratch) / "kernel.c", Path(scratch) / "kernel.so"
        code.write_text(source)
        subprocess.run([compiler, *FLAGS, str(code), "-o", str(built), "-lm"], check=True, capture_output=True, timeout=120)
        built.replace(target)
