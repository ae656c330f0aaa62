"""From a request body to the engine's sampling parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundling.core.errors import FoundlingError
from foundling.serving.errors import ApiError, refused
from foundling.serving.requests import ChatBody, CompletionBody, Sampling

if TYPE_CHECKING:
    from foundling.inference.parameters import SamplingParams
    from foundling.inference.structured.grammar import Grammar

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; chat's is "what the context leaves"


def for_chat(body: ChatBody, prompt_tokens: int, context: int, grammar: Grammar | None) -> SamplingParams:
    """Sampling parameters of a chat request whose rendered prompt has `prompt_tokens` tokens."""
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise refused("max_tokens", "give max_completion_tokens or max_tokens (its old name), not both")
    if body.top_logprobs and not body.logprobs:
        raise refused("top_logprobs", "top_logprobs needs logprobs: true")
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    room = _room(prompt_tokens, context, "messages")
    alternatives = (body.top_logprobs or 0) if body.logprobs else None
    name = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    return _params(body, _fit(asked, room, context, name) or room, alternatives, grammar=grammar)


def for_completion(body: CompletionBody, prompt_tokens: int, context: int, grammar: Grammar | None) -> SamplingParams:
    """Sampling parameters of one prompt of a completion request."""
    if body.max_tokens == 0 and not body.echo:
        raise refused("max_tokens", "max_tokens: 0 needs echo: true")
    room = _room(prompt_tokens, context, "prompt")
    asked = _fit(body.max_tokens, room, context, "max_tokens")
    if asked is None:
        asked = min(COMPLETION_MAX_TOKENS, room)
    # The engine generates at least one token; for max_tokens 0 the answer leaves it out.
    return _params(body, max(asked, 1), body.logprobs, body.logprobs if body.echo else None, grammar)


def _room(prompt_tokens: int, context: int, param: str) -> int:
    if prompt_tokens >= context:
        message = f"the prompt has {prompt_tokens} tokens and the model's context only {context}"
        raise ApiError(400, message, param=param, code="context_length_exceeded")
    return context - prompt_tokens


def _fit(asked: int | None, room: int, context: int, param: str) -> int | None:
    if asked is not None and asked > room:
        message = f"{param} is {asked}, but the prompt leaves {room} of the context's {context} tokens"
        raise ApiError(400, message, param=param, code="context_length_exceeded")
    return asked


def _params(
    body: Sampling,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    grammar: Grammar | None = None,
) -> SamplingParams:
    from foundling.inference.parameters import SamplingParams

    try:
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_k=body.top_k or 0,
            top_p=1.0 if body.top_p is None else body.top_p,
            min_p=body.min_p or 0.0,
            seed=body.seed,
            stop=tuple(body.stop),
            ignore_eos=body.ignore_eos,
            typical_p=1.0 if body.typical_p is None else body.typical_p,
            frequency_penalty=body.frequency_penalty or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            repetition_penalty=body.repetition_penalty or 1.0,
            logit_bias=body.logit_bias,
            min_tokens=body.min_tokens or 0,
            prompt_logprobs=prompt_logprobs,
            grammar=grammar,
            logprobs=logprobs,
            n=body.n or 1,
        )
    except FoundlingError as error:
        raise ApiError(400, str(error)) from None
