"""Numbers for people: bytes, counts, durations, rates."""

from __future__ import annotations

import math


def human_bytes(n: float) -> str:
    """1536 -> '1.54 KB': powers of 1000, as disks and model cards count."""
    return _scaled(n, ("B", "KB", "MB", "GB", "TB", "PB"), " ")


def human_count(n: float) -> str:
    """2_500_000 -> '2.5M'."""
    return _scaled(n, ("", "K", "M", "B", "T"), "")


def human_flops(n: float) -> str:
    """3.1e15 -> '3.1 PFLOP'."""
    return _scaled(n, ("FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP", "YFLOP"), " ")


def human_time(seconds: float) -> str:
    """75 -> '1m15s', 0.25 -> '0.2s'."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def _scaled(n: float, suffixes: tuple[str, ...], space: str) -> str:
    value, index = float(n), 0
    while abs(value) >= 999.5 and index < len(suffixes) - 1:
        value /= 1000
        index += 1
    number = f"{value:.0f}" if index == 0 or abs(value) >= 99.5 else f"{value:.3g}"
    return f"{number}{space if suffixes[index] else ''}{suffixes[index]}"


def parse_count(text: str | float) -> float:
    """'7B' -> 7e9, '1.4T' -> 1.4e12, '3.14e23' and plain numbers too: what `human_count` writes.

    Raises:
        ValueError: not a finite number with one of the suffixes K, M, B, T.
    """
    number = str(text).strip().replace("_", "").replace(",", "")
    scale = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(number[-1:].upper(), 1.0)
    value = float(number if scale == 1.0 else number[:-1]) * scale
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
