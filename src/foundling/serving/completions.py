"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from foundling.serving import replies, sampling
from foundling.serving.answering import collect, server_sent
from foundling.serving.errors import refused
from foundling.serving.replies import Choice
from foundling.serving.requests import CompletionBody
from foundling.serving.service import Service

if TYPE_CHECKING:
    from foundling.inference.requests import Event

MAX_PROMPTS = 256


async def answer(service: Service, body: CompletionBody, http: HttpRequest) -> Response:
    """Run each prompt; choices are numbered prompt by prompt, `n` for each."""
    from foundling.inference.requests import Request

    service.check_model(body.model)
    if body.echo:
        raise refused("echo", "echo is not supported")
    if len(body.prompt) > MAX_PROMPTS:
        raise refused("prompt", f"at most {MAX_PROMPTS} prompts in one request, got {len(body.prompt)}")
    prompts = [_ids(service, prompt) for prompt in body.prompt]
    requests = [Request(ids, sampling.for_completion(body, len(ids), service.context)) for ids in prompts]
    prompt_tokens = sum(map(len, prompts))
    if body.stream:
        return await server_sent(service, requests, CompletionStream(service, body, prompt_tokens), http)
    if body.stream_options:
        raise refused("stream_options", "stream_options needs stream: true")
    choices = await collect(service, requests, http)
    header = replies.Header("cmpl", "text_completion", service.name)
    used = replies.usage(prompt_tokens, sum(choice.completion_tokens for choice in choices))
    return JSONResponse(header.reply([_choice(service, body, i, c, 0) for i, c in enumerate(choices)], used))


def _ids(service: Service, prompt: str | list[int]) -> list[int]:
    """A prompt's tokens, as `Model.generate` would make them from a text."""
    if isinstance(prompt, str):
        return list(service.model.request(prompt).prompt_ids)
    bad = next((token for token in prompt if not 0 <= token < service.vocab_size), None)
    if bad is not None:
        raise refused("prompt", f"token id {bad} is outside the vocabulary of {service.vocab_size}")
    return prompt


def _choice(service: Service, body: CompletionBody, index: int, part: Choice, offset: int) -> dict[str, Any]:
    logprobs = None
    if body.logprobs is not None:
        logprobs = replies.completion_logprobs(service.tokenizer, part, body.logprobs, offset)
    return {"index": index, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish_reason}


class CompletionStream:
    """A completion in chunks, then usage if it was asked for."""

    def __init__(self, service: Service, body: CompletionBody, prompt_tokens: int) -> None:
        self.service, self.body = service, body
        self.header = replies.Header("cmpl", "text_completion", service.name)
        self.prompt_tokens, self.completion_tokens = prompt_tokens, 0
        self.offsets: dict[int, int] = {}  # per choice: characters of its tokens sent so far

    def opening(self) -> Iterable[dict[str, Any]]:
        """Nothing: a completion has no role to announce."""
        return ()

    def chunks(self, number: int, event: Event) -> Iterable[dict[str, Any]]:
        """The event as one chunk."""
        part = Choice()
        part.add(event, self.service.tokenizer.stop_ids)
        self.completion_tokens += part.completion_tokens
        index = number * (self.body.n or 1) + event.index
        chunk = _choice(self.service, self.body, index, part, self.offsets.get(index, 0))
        if chunk["logprobs"]:
            self.offsets[index] = self.offsets.get(index, 0) + sum(map(len, chunk["logprobs"]["tokens"]))
        yield self.header.reply([chunk])

    def closing(self) -> Iterable[dict[str, Any]]:
        """The usage chunk, if it was asked for."""
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield self.header.reply([], replies.usage(self.prompt_tokens, self.completion_tokens))
