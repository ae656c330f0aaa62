"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from foundling.serving import replies, sampling
from foundling.serving.answering import collect, server_sent
from foundling.serving.errors import refused
from foundling.serving.replies import Choice
from foundling.serving.request_log import note_usage
from foundling.serving.requests import CompletionBody
from foundling.serving.service import Service, Services

MAX_PROMPTS = 256


async def answer(services: Services, body: CompletionBody, http: HttpRequest) -> Response:
    """Run each prompt; choices are numbered prompt by prompt, `n` for each."""
    from foundling.inference.requests import Request

    service = services.pick(body.model)
    if len(body.prompt) > MAX_PROMPTS:
        raise refused("prompt", f"at most {MAX_PROMPTS} prompts in one request, got {len(body.prompt)}")
    if body.stream and body.echo and body.logprobs is not None:
        raise refused("echo", "echo with logprobs is not streamed; leave out stream, or logprobs")
    for prompt in body.prompt:
        service.rules.check_question(prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt), "prompt")
    prompts = [await _ids(service, prompt) for prompt in body.prompt]
    grammar = await service.compiled(service.rules.form(None, ""), "prompt")
    params = [sampling.for_completion(body, len(ids), service.context, grammar) for ids in prompts]
    requests = [Request(ids, own, adapter=service.adapter) for ids, own in zip(prompts, params, strict=True)]
    prompt_tokens = sum(map(len, prompts))
    if body.stream:
        form = CompletionStream(service, body, prompts, http.scope)
        return await server_sent(service, requests, form, http)
    if body.stream_options:
        raise refused("stream_options", "stream_options needs stream: true")
    choices = await collect(service, requests, http)
    shown = [_whole(service, body, i, c, prompts[i // (body.n or 1)]) for i, c in enumerate(choices)]
    generated = 0 if body.max_tokens == 0 else sum(choice.completion_tokens for choice in choices)
    used = replies.usage(prompt_tokens, generated)
    note_usage(http.scope, service, body.user, used)
    service.log_text(http.scope, body.prompt, [choice.text for choice in choices])
    return JSONResponse(replies.Header("cmpl", "text_completion", service.name).reply(shown, used))


async def _ids(service: Service, prompt: str | list[int]) -> list[int]:
    """A prompt's tokens, as `Model.generate` would make them from a text."""
    if isinstance(prompt, str):
        return await service.encode(prompt)
    bad = next((token for token in prompt if not 0 <= token < service.vocab_size), None)
    if bad is not None:
        raise refused("prompt", f"token id {bad} is outside the vocabulary of {service.vocab_size}")
    return prompt


def _whole(service: Service, body: CompletionBody, index: int, choice: Choice, prompt: list[int]) -> dict[str, Any]:
    part = choice
    if body.max_tokens == 0:
        part = Choice(finish_reason="length", completion=choice.completion)
    if not body.echo:
        return _choice(service, body, index, part)
    done = choice.completion
    first: list[float | None] = [None]  # nothing comes before the first token that could predict it
    echoed = replace(
        part,
        text=_prompt_text(service, prompt) + part.text,
        tokens=prompt + part.tokens,
        logprobs=[*first, *((done.prompt_logprobs if done else None) or []), *part.logprobs],
        alternatives=[{}, *((done.prompt_top_logprobs if done else None) or []), *part.alternatives],
    )
    return _choice(service, body, index, echoed)


def _prompt_text(service: Service, prompt: list[int]) -> str:
    return service.tokenizer.decode(prompt)


def _choice(service: Service, body: CompletionBody, index: int, part: Choice, offset: int = 0) -> dict[str, Any]:
    logprobs = None
    if body.logprobs is not None:
        logprobs = replies.completion_logprobs(service.tokenizer, part, body.logprobs, offset)
    return {"index": index, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish_reason}


class CompletionStream:
    """A completion in chunks, then usage if it was asked for."""

    def __init__(self, service: Service, body: CompletionBody, prompts: list[list[int]], scope: Scope) -> None:
        self.service, self.body, self.prompts, self.scope = service, body, prompts, scope
        self.header = replies.Header("cmpl", "text_completion", service.name)
        self.completion_tokens = 0
        self.said: dict[int, str] = {}
        self.offsets: dict[int, int] = {}  # per choice: characters of its tokens sent so far

    def opening(self) -> Iterable[dict[str, Any]]:
        """The prompts, if they are to be echoed."""
        n = self.body.n or 1
        for index in range(len(self.prompts) * n if self.body.echo else 0):
            yield self.header.reply([_choice(self.service, self.body, index, self._echo(self.prompts[index // n]))])

    def _echo(self, prompt: list[int]) -> Choice:
        return Choice(_prompt_text(self.service, prompt))

    def chunks(self, number: int, index: int, part: Choice) -> Iterable[dict[str, Any]]:
        """A piece as one chunk."""
        self.completion_tokens += 0 if self.body.max_tokens == 0 else part.completion_tokens
        index = number * (self.body.n or 1) + index
        self.said[index] = self.said.get(index, "") + part.text
        if self.body.max_tokens == 0:
            part = Choice(finish_reason="length" if part.finish_reason else None)
        chunk = _choice(self.service, self.body, index, part, self.offsets.get(index, 0))
        if chunk["logprobs"]:
            self.offsets[index] = self.offsets.get(index, 0) + sum(map(len, chunk["logprobs"]["tokens"]))
        yield self.header.reply([chunk])

    def closing(self) -> Iterable[dict[str, Any]]:
        """The usage chunk, if it was asked for."""
        used = replies.usage(sum(map(len, self.prompts)), self.completion_tokens)
        note_usage(self.scope, self.service, self.body.user, used)
        self.service.log_text(self.scope, self.body.prompt, list(self.said.values()))
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield self.header.reply([], used)
