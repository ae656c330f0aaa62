"""What glibc does with freed memory: keep it in the process, or give it back to the system at once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGEST = (1 << 31) - 1
USUAL = 1 << 22
SMALL = 1 << 18
HEAPS = 4


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc reuse freed blocks instead of returning them to the system, which then zeroes them page by page.

    For training, which allocates and frees large tensors at every step: one of a small model takes 10-15% less time.
    """
    with _thresholds(LARGEST):
        yield


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Let glibc return freed tensors to the system at once, instead of leaving holes that nothing fits into again.

    For work that must stay small: quantizing SmolLM2 otherwise holds three times its weights at the end.
    """
    with _thresholds(SMALL):
        yield


def stay_small() -> None:
    """For a process that runs for weeks: freed blocks are returned, heaps shared, few compiled kernels kept.

    Otherwise every thread fills a heap of its own, and oneDNN keeps 1024 kernels of some MB, one for every shape it has
    met: prompts have every length. It reads the number when it is first used; one that the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    mallopt = getattr(_glibc(), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, USUAL)
        mallopt(M_TRIM_THRESHOLD, USUAL)
        mallopt(M_ARENA_MAX, HEAPS)


def return_freed_memory() -> None:
    """Give the pages of freed blocks back to the system now, holes in the middle of the heaps included; some ms."""
    trim = getattr(_glibc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


@contextlib.contextmanager
def _thresholds(size: int) -> Iterator[None]:
    """Blocks from `size` bytes on are returned when freed; afterwards everything free is. Only glibc can do this."""
    mallopt = getattr(_glibc(), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(M_MMAP_THRESHOLD, size)
    mallopt(M_TRIM_THRESHOLD, size)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, USUAL)
        mallopt(M_TRIM_THRESHOLD, USUAL)
        return_freed_memory()
