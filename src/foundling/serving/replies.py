"""The engine's events as OpenAI's objects: whole answers and the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foundling.serving.errors import ApiError

if TYPE_CHECKING:
    from foundling.inference.requests import Completion, Event
    from foundling.tokenization.tokenizer import Tokenizer


@dataclass
class Choice:
    """What one of a request's `n` answers has said so far."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    alternatives: list[dict[int, float]] = field(default_factory=list)
    finish_reason: str | None = None
    completion_tokens: int = 0
    completion: Completion | None = None  # the engine's own record, once it has ended

    def add(self, event: Event, stop_ids: tuple[int, ...]) -> None:
        """Append an event's text and token.

        Raises:
            ApiError: the continuation failed (no room, broken model); its reason and numbers are in the message.
        """
        self.text += event.text
        self.finish_reason = event.finish_reason
        self.completion = event.completion
        if event.finish_reason not in (None, "stop", "length"):
            raise _failure(event)
        self.completion_tokens += len(event.tokens)
        said = len(event.tokens)
        if event.finish_reason == "stop" and event.tokens and event.tokens[-1] in stop_ids:
            said -= 1  # the control token that ended the answer is counted, but it is not part of what was said
        self.tokens += event.tokens[:said]
        self.logprobs += event.logprobs[:said]
        self.alternatives += (event.top_logprobs or [{}] * said)[:said]


def _failure(event: Event) -> ApiError:
    reason = str(event.finish_reason)
    message = (event.completion.message if event.completion else "") or f"the engine gave up: {reason}"
    if reason == "prompt_too_long":
        return ApiError(400, message, param="messages", code="context_length_exceeded")
    if reason == "bad_grammar":
        return ApiError(400, message, param="response_format", code=reason)
    if reason == "out_of_blocks":
        return ApiError(503, message, kind="server_error", code=reason, headers={"Retry-After": "1"})
    return ApiError(500, message, kind="server_error", code=reason)


class Header:
    """The fields that all chunks of one answer share."""

    def __init__(self, prefix: str, kind: str, model: str) -> None:
        self.fields = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def reply(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """A whole answer, or one chunk of a stream."""
        return {**self.fields, "choices": choices, **({"usage": usage} if usage else {})}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """OpenAI's token accounting."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def chat_logprobs(tokenizer: Tokenizer, part: Choice, top: int) -> dict[str, Any]:
    """Chat's form: one object per token, each with its `top` likeliest alternatives."""
    content = []
    for token, logprob, others in _rows(part):
        ranked = sorted(others.items(), key=lambda item: -item[1])[:top]
        alternatives = [_chat_token(tokenizer, other, value) for other, value in ranked]
        content.append({**_chat_token(tokenizer, token, logprob), "top_logprobs": alternatives})
    return {"content": content, "refusal": None}


def completion_logprobs(tokenizer: Tokenizer, part: Choice, top: int, offset: int) -> dict[str, Any]:
    """Completions' form: parallel lists; `offset` is where in the answer's text the first token starts."""
    texts = [_text(tokenizer, token) for token in part.tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    ranked = (sorted(others.items(), key=lambda item: -item[1])[:top] for _, _, others in _rows(part))
    tops = [{_text(tokenizer, other): value for other, value in row} or None for row in ranked]
    return {"tokens": texts, "token_logprobs": part.logprobs, "top_logprobs": tops, "text_offset": offsets}


def _rows(part: Choice) -> Iterable[tuple[int, float | None, dict[int, float]]]:
    return zip(part.tokens, part.logprobs, part.alternatives, strict=True)


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": max(logprob or 0.0, -9999.0), "bytes": list(raw)}


def _text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; half a character is shown as OpenAI shows it, `bytes:\\xe2`."""
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
