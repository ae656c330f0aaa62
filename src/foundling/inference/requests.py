"""What goes into the engine and what comes out. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foundling.inference.parameters import SamplingParams

Prompt = str | Sequence[Mapping[str, Any]]  # plain text, or chat messages

# Why a continuation ended. The first two are OpenAI's; the others name what went wrong or who stopped it.
STOP, LENGTH = "stop", "length"
CANCELLED = "cancelled"
PROMPT_TOO_LONG, OUT_OF_BLOCKS, NAN_LOGITS = "prompt_too_long", "out_of_blocks", "nan_logits"
BAD_GRAMMAR = "bad_grammar"  # it cannot be used, or leaves no token to choose
FAILURES = (PROMPT_TOO_LONG, OUT_OF_BLOCKS, NAN_LOGITS, BAD_GRAMMAR)


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it.

    Args:
        prompt_ids: at least one token; for an encoder-decoder, the answer's beginning (its start token).
        id: the caller's name for it, carried through to completions and events; None: the engine numbers it.
        adapter: which of the engine's adapters answers; None: the model itself.
        encoder_ids: what the encoder of an encoder-decoder reads.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    id: Any = None
    adapter: str | None = None
    encoder_ids: Sequence[int] = ()


@dataclass
class Completion:
    """One continuation.

    Args:
        text: without stop strings and control tokens.
        tokens: every generated token, a stop token included.
        logprobs: log p of each token under the model's own distribution (temperature 1, nothing removed).
        finish_reason: "stop", "length", "cancelled", or one of FAILURES.
        request_id: the request's id.
        index: which of the request's n continuations.
        prompt_tokens: length of the prompt.
        top_logprobs: per token the most probable alternatives, if asked for: token -> log p.
        prompt_logprobs, prompt_top_logprobs: of the prompt's tokens from the second on, if asked for.
        message: for the reasons that are errors, what happened, with the numbers.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: str
    request_id: Any = None
    index: int = 0
    prompt_tokens: int = 0
    top_logprobs: list[dict[int, float]] | None = None
    prompt_logprobs: list[float] | None = None
    prompt_top_logprobs: list[dict[int, float]] | None = None
    message: str = ""

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return self.finish_reason in FAILURES


@dataclass(slots=True)
class Event:
    """What a step brought to one continuation of a request that is streamed.

    Args:
        text: what can be shown now; text that may turn out to be part of a stop string is held back.
        tokens, logprobs, top_logprobs: of the new tokens, usually one.
        finish_reason: None until the last event of a continuation.
        completion: the whole continuation, on its last event.
    """

    request_id: Any
    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] | None = None
    finish_reason: str | None = None
    completion: Completion | None = None


@dataclass(frozen=True)
class Score:
    """How probable a continuation is after a context.

    Args:
        logprob: log p(continuation | context), natural logarithm.
        tokens_logprobs: of each token.
        is_greedy: whether greedy decoding would have produced exactly this continuation.
    """

    logprob: float
    tokens_logprobs: list[float] = field(repr=False)
    is_greedy: bool = False
