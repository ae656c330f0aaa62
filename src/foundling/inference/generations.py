"""A continuation in the making: what the engine keeps for each running sequence beside its place in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foundling.core.rng import seed_for
from foundling.inference.parameters import SamplingParams
from foundling.inference.requests import LENGTH, STOP, Completion, Event
from foundling.inference.sampling import SamplingRows
from foundling.inference.scheduler import Sequence
from foundling.inference.text import StopText
from foundling.tokenization.tokenizer import Tokenizer


@dataclass(eq=False, slots=True)
class Generation:
    """One of a request's n continuations.

    Args:
        seed: of this continuation's random numbers.
        stop_ids: all ids that end it.
        stream: whether every token gives an event.
        watcher: detokenizes along the way; None where the text is only wanted at the end.
    """

    sequence: Sequence
    params: SamplingParams
    request_id: Any
    index: int
    seed: int
    stop_ids: frozenset[int]
    stream: bool
    watcher: StopText | None
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)

    @property
    def new_tokens(self) -> list[int]:
        """What has been generated so far."""
        return self.sequence.tokens[self.sequence.prompt_length :]

    def accept(self, token: int, logprob: float) -> tuple[str, str | None]:
        """Append a token; returns the text that can be shown now and, if it ends here, the finish reason."""
        sequence = self.sequence
        sequence.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.stop_ids:
            return (self.watcher.flush() if self.watcher else ""), STOP
        reason = LENGTH if len(sequence.tokens) >= sequence.limit else None
        if self.watcher is None:
            return "", reason
        text = self.watcher.push(token)
        if not self.watcher.stopped and reason:
            text += self.watcher.flush()
        return text, STOP if self.watcher.stopped else reason

    def event(self, text: str, reason: str | None, completion: Completion | None) -> Event:
        """The event of the token just accepted."""
        top = self.top_logprobs[-1:] if self.params.logprobs is not None else None
        tokens, logprobs = self.sequence.tokens[-1:], self.logprobs[-1:]
        return Event(self.request_id, self.index, text, tokens, logprobs, top, reason, completion)

    def completion(self, reason: str, tokenizer: Tokenizer | None, message: str = "") -> Completion:
        """What the caller gets."""
        tokens = self.new_tokens
        if self.watcher is not None:
            text = self.watcher.text
        else:
            text = _text(tokens, self.stop_ids, tokenizer) if tokenizer else ""
        top = self.top_logprobs if self.params.logprobs is not None else None
        prompt = self.sequence.prompt_length
        return Completion(text, tokens, self.logprobs, reason, self.request_id, self.index, prompt, top, message)


def sampling_rows(generations: list[Generation]) -> SamplingRows:
    """The parameters of a batch of continuations, as arrays."""
    params = [generation.params for generation in generations]
    return SamplingRows(
        temperature=np.array([p.temperature for p in params], dtype=np.float32),
        top_k=np.array([p.top_k for p in params], dtype=np.int64),
        top_p=np.array([p.top_p for p in params], dtype=np.float32),
        min_p=np.array([p.min_p for p in params], dtype=np.float32),
        seeds=np.array([generation.seed for generation in generations], dtype=np.uint64),
        indices=np.array([len(generation.logprobs) for generation in generations], dtype=np.int64),
    )


def seed_of(seed: int, index: int) -> int:
    """The seed of a request's continuation number `index`."""
    return seed_for("sample", seed, index)


def _text(tokens: list[int], stop_ids: frozenset[int], tokenizer: Tokenizer) -> str:
    if tokens and tokens[-1] in stop_ids:
        tokens = tokens[:-1]
    return tokenizer.decode([token for token in tokens if token < tokenizer.vocab_size])
