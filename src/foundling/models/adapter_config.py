"""Which small set of weights to train beside a frozen model. No torch here."""

from __future__ import annotations

import math
from typing import Literal

from foundling.core.config import Config, option

ALL_LINEAR = "all-linear"


class AdapterConfig(Config):
    """LoRA and its kin, or a learned prompt."""

    method: Literal["lora", "rslora", "dora", "prompt"] = option("lora", "what is trained beside the frozen model")
    rank: int = option(8, "lora: inner dimension of the update", ge=1)
    alpha: float = option(16.0, "lora: scale of the update; it is alpha/rank, or alpha/sqrt(rank) for rslora", gt=0)
    dropout: float = option(0.0, "lora: share of the update's inputs left out in training", ge=0, lt=1)
    targets: tuple[str, ...] = option(
        (ALL_LINEAR,), "lora: layers by the end of their Hugging Face name (q_proj, ...), or all-linear", min_length=1
    )
    base: Literal["as-is", "int4", "nf4"] = option(
        "as-is", "lora: what the frozen linear layers are kept in (int4, nf4: QLoRA, a quarter of bf16's memory)"
    )
    virtual_tokens: int = option(16, "prompt: how many learned vectors stand before the text", ge=1)

    @property
    def scaling(self) -> float:
        """What the low-rank update is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.method == "rslora" else self.rank)
