"""Small C kernels compiled once for this machine's CPU: source in, ctypes library out.

The same compiler that `torch.compile` needs is used; without one (or with FOUNDLING_NATIVE=0) `library` returns None
and the callers run their plain torch form. Builds are cached by the hash of source, flags, compiler and CPU.
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
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
LANES = 16
# Not -ffast-math: linked into a library it makes the whole process flush subnormal numbers to zero.
FAST = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
FLAGS = ("-O3", "-march=native", *FAST, "-std=gnu11", "-shared", "-fPIC")

# What the kernels share: vectors of 16 floats, partial loads and stores, exp of non-positive numbers.
VECTORS = r"""
#include <stdint.h>
#include <string.h>
#define W 16
typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));

static inline vec load(const float *p, int n) {
    vec v = {0};
    if (n == W) memcpy(&v, p, sizeof v); else for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}
static inline void store(float *p, vec v, int n) {
    if (n == W) memcpy(p, &v, sizeof v); else for (int i = 0; i < n; i++) p[i] = v[i];
}
/* exp(x) for x <= 0: 2^k times a polynomial in the fraction, relative error below 2e-7; 0 under -87. */
static inline vec vexp(vec x) {
    ivec tiny = x < -87.0f;
    x = (vec)((ivec)x & ~tiny);
    vec k = __builtin_convertvector(__builtin_convertvector(x * 1.44269504f - 0.5f, ivec), vec);
    vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec bits = (__builtin_convertvector(k, ivec) + 127) << 23;
    p = p * (vec)bits;
    return (vec)((ivec)p & ~tiny);
}
static inline float sum(vec v) { float s = 0; for (int i = 0; i < W; i++) s += v[i]; return s; }
"""


@cache
def library(source: str, flags: tuple[str, ...] = FLAGS) -> ctypes.CDLL | None:
    """The compiled library, or None if this machine has no C compiler or does not want native kernels."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("FOUNDLING_NATIVE") == "0":
        return None
    target = _cache_directory() / f"{_build_hash(source, compiler, flags)}.so"
    try:
        if not target.exists():
            _compile(source, compiler, target, flags)
        return ctypes.CDLL(str(target))
    except subprocess.CalledProcessError as error:
        logger.warning("no native kernels, going on without: %s", error.stderr.decode(errors="replace"))
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("no native kernels, going on without: %s", error)
        return None


def built(source: str) -> Any:
    """The library of a source that `library` is known to have built."""
    compiled = library(source)
    assert compiled is not None
    return compiled


def row_pointers(row: int, *tensors: Tensor | None) -> tuple[ctypes.c_void_p, ...]:
    """The addresses of one row of each contiguous tensor, NULL for None."""
    return tuple(pointer(None if part is None else part[row]) for part in tensors)


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


def shares(rows: int, dim: int) -> list[tuple[int, int, int]]:
    """(row, first channel, end channel) of each task: rows, cut by channels only when there are fewer than threads."""
    parts = 1 if rows >= torch.get_num_threads() else -(-torch.get_num_threads() // rows)
    width = -(-dim // (parts * LANES)) * LANES
    return [(row, low, min(low + width, dim)) for row in range(rows) for low in range(0, dim, width)]


def sizes(*numbers: int) -> tuple[ctypes.c_int64, ...]:
    """Sizes as the kernels take them."""
    return tuple(ctypes.c_int64(number) for number in numbers)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="foundling-native")


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "foundling" / "kernels"


def _build_hash(source: str, compiler: str, flags: tuple[str, ...]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else [platform.processor()]
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    parts = (source, " ".join(flags), version, platform.machine(), *features)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _compile(source: str, compiler: str, target: Path, flags: tuple[str, ...]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        code, built = Path(scratch) / "kernel.c", Path(scratch) / "kernel.so"
        code.write_text(source)
        command = [compiler, *flags, str(code), "-o", str(built), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        built.replace(target)
