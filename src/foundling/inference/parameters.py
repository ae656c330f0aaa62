"""How to sample: the parameters of one request. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from foundling.core.errors import FoundlingError, nearest
from foundling.inference.structured.grammar import Grammar


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
        typical_p: keep the tokens whose surprise is nearest to the entropy, until they reach this probability (locally
            typical sampling, arXiv:2202.00666); 1 keeps all.
        repetition_penalty: logits of tokens seen in prompt or answer are divided by it (multiplied, if negative; CTRL,
            arXiv:1909.05858); 1 is off.
        presence_penalty: subtracted from the logits of tokens the answer already has.
        frequency_penalty: subtracted once for each time the answer has the token.
        logit_bias: token id -> added to its logit.
        bad_words: texts that must not appear as such; their usual tokenisations (with and without a space before) are
            banned.
        bad_words_ids: token sequences that must not appear.
        min_tokens: no stop id before so many tokens.
        seed: same seed, same tokens, whatever else is in the batch; None draws a fresh one.
        stop: strings (or one) that end the text; they may straddle tokens and are not part of the text.
        stop_ids: token ids that end the text, besides the tokenizer's own; kept in `tokens`, not in the text.
        ignore_eos: do not stop at the tokenizer's own stop ids.
        logprobs: alternatives to report for each token; None reports none. The chosen token's own log-probability
            is always reported.
        prompt_logprobs: also report the prompt's log-probabilities, with so many alternatives; None: no.
        grammar: what the answer must look like (`structured/grammar.py`).
        echo: the text begins with the prompt's.
        n: how many continuations; they share the prompt's cache.

    Raises:
        FoundlingError: for a value outside its range, naming it.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    echo: bool = False
    n: int = 1

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more"
        )
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        _require(0 < self.typical_p <= 1, "typical_p", self.typical_p, "above 0 and at most 1")
        _require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            _require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number")
        _require(0 <= self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "between 0 and max_tokens")
        _require(all(self.bad_words), "bad_words", self.bad_words, "non-empty strings")
        _require(all(self.bad_words_ids), "bad_words_ids", self.bad_words_ids, "non-empty sequences of token ids")
        _require(all(self.stop), "stop", self.stop, "non-empty strings")
        _require(self.logprobs is None or self.logprobs >= 0, "logprobs", self.logprobs, "0 or more, or None")
        wanted = self.prompt_logprobs
        _require(wanted is None or wanted >= 0, "prompt_logprobs", wanted, "0 or more, or None")
        _require(self.n >= 1, "n", self.n, "at least 1")
        stop: object = self.stop
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))

    @property
    def edits_logits(self) -> bool:
        """Whether anything but temperature and the filters after it changes the logits."""
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.bad_words
            or self.bad_words_ids
            or self.min_tokens
        )

    @classmethod
    def of(cls, **options: Any) -> SamplingParams:
        """The parameters, refusing unknown names with the nearest valid one."""
        known = [entry.name for entry in fields(cls)]
        for name in options:
            if name not in known:
                raise FoundlingError(
                    f"unknown sampling parameter '{name}'", f"known: {', '.join(known)}", nearest(name, known)
                )
        return cls(**options)


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise FoundlingError(f"sampling parameter {name} is {value!r}", f"expected {expected}")
