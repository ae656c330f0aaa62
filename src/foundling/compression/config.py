"""How to make a model smaller. No torch."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option


class CompressConfig(Config):
    """The `compress` stage: weight-only quantization, group by group."""

    bits: Literal[4, 8] = option(8, "bits per weight")
    group_size: int | None = option(32, "inputs that share a scale; null: all inputs of an output", gt=0)
    symmetric: bool = option(True, "no zero points; what the fast kernels take")
    method: Literal["nearest", "search"] = option(
        "search", "nearest: scales from the largest weight; search: scales that give the smallest squared error"
    )
    keep: tuple[str, ...] = option(("output",), "layers left as they are, by name; `*` matches anything")
    compare_bytes: int = option(60_000, "held-out text on which the result is compared with the original", ge=0)
    seed: int = option(0, "which held-out text")
