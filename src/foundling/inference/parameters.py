"""How to sample: the parameters of one request. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from foundling.core.errors import FoundlingError, nearest


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue one prompt. The order in which these are applied is documented in `inference/sampling.py`.

    Args:
        max_tokens: most tokens to generate.
        temperature: logits are divided by it; 0 is greedy.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the most probable tokens that together reach this probability (nucleus sampling,
            arXiv:1904.09751); 1 keeps all.
        min_p: keep tokens at least this fraction as probable as the most probable one (arXiv:2407.01082).
        seed: same seed, same tokens, whatever else is in the batch; None draws a fresh one.
        stop: strings (or one) that end the text; they may straddle tokens and are not part of the text.
        stop_ids: token ids that end the text, besides the tokenizer's own; kept in `tokens`, not in the text.
        ignore_eos: do not stop at the tokenizer's own stop ids.
        logprobs: alternatives to report for each token; None reports none. The chosen token's own log-probability
            is always reported.
        n: how many continuations; they share the prompt's cache.

    Raises:
        FoundlingError: for a value outside its range, naming it.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more"
        )
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        _require(all(self.stop), "stop", self.stop, "non-empty strings")
        _require(self.logprobs is None or self.logprobs >= 0, "logprobs", self.logprobs, "0 or more, or None")
        _require(self.n >= 1, "n", self.n, "at least 1")
        stop: object = self.stop
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))

    @classmethod
    def of(cls, **options: Any) -> SamplingParams:
        """The parameters, refusing unknown names with the nearest valid one."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise FoundlingError(
                    f"unknown sampling parameter '{name}'", f"known: {', '.join(known)}", nearest(name, known)
                )
        return cls(**options)


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise FoundlingError(f"sampling parameter {name} is {value!r}", f"expected {expected}")
