"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from foundling.serving import replies, sampling
from foundling.serving.answering import collect, server_sent
from foundling.serving.errors import refused
from foundling.serving.formats import grammar_of
from foundling.serving.replies import Choice
from foundling.serving.request_log import note_usage
from foundling.serving.requests import ChatBody
from foundling.serving.service import Service, Services
from foundling.serving.tools import Tools, tools_of, with_explanations


async def answer(services: Services, body: ChatBody, http: HttpRequest) -> Response:
    """Render the messages with the one chat renderer, run the engine, answer whole or streamed."""
    from foundling.inference.requests import Request

    service = services.pick(body.model)
    for index, message in enumerate(body.messages):
        service.rules.check_question(message.content or "", f"messages[{index}].content")
    tools = await tools_of(service, body)
    field = "tools" if tools else "response_format"
    asked = tools.grammar if tools else await grammar_of(service, body.response_format)
    grammar = await service.compiled(service.rules.form(asked, field), field)
    messages = with_explanations([message.plain() for message in body.messages], tools, body.response_format, service)
    prompt = await service.render(messages, tools=tools.shown if tools else None)
    params = sampling.for_chat(body, len(prompt), service.context, grammar)
    request = Request(prompt, params, adapter=service.adapter)
    if body.stream:
        form = ChatStream(service, body, tools, len(prompt), http.scope)
        return await server_sent(service, [request], form, http)
    if body.stream_options:
        raise refused("stream_options", "stream_options needs stream: true")
    choices = await collect(service, [request], http)
    used = replies.usage(len(prompt), sum(choice.completion_tokens for choice in choices))
    note_usage(http.scope, service, body.user, used)
    service.log_text(http.scope, messages, [choice.text for choice in choices])
    header = replies.Header("chatcmpl", "chat.completion", service.name)
    return JSONResponse(header.reply([_whole(service, body, tools, i, c) for i, c in enumerate(choices)], used))


def _whole(service: Service, body: ChatBody, tools: Tools | None, index: int, choice: Choice) -> dict[str, Any]:
    calls = tools.calls(choice.text) if tools else None
    message: dict[str, Any] = {"role": "assistant", "content": choice.text if calls is None else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    reason = "tool_calls" if calls and choice.finish_reason == "stop" else choice.finish_reason
    logprobs = _logprobs(service, body, choice)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(service: Service, body: ChatBody, part: Choice) -> dict[str, Any] | None:
    return replies.chat_logprobs(service.tokenizer, part, body.top_logprobs or 0) if body.logprobs else None


class ChatStream:
    """A chat answer in chunks: the role first, then text as it comes, then why it ended, then usage if asked for."""

    def __init__(self, service: Service, body: ChatBody, tools: Tools | None, prompt_tokens: int, scope: Scope) -> None:
        self.service, self.body, self.tools, self.scope = service, body, tools, scope
        self.header = replies.Header("chatcmpl", "chat.completion.chunk", service.name)
        self.prompt_tokens, self.completion_tokens = prompt_tokens, 0
        self.said = [""] * (body.n or 1)

    def opening(self) -> Iterable[dict[str, Any]]:
        """One chunk per choice that says who speaks."""
        for index in range(self.body.n or 1):
            yield self._chunk(index, {"role": "assistant", "content": ""}, None, None)

    def chunks(self, number: int, index: int, part: Choice) -> Iterable[dict[str, Any]]:
        """A piece's text, with the log-probabilities of its tokens; a last, empty delta says why it ended."""
        self.completion_tokens += part.completion_tokens
        self.said[index] += part.text
        said, reason, text = self.said[index], part.finish_reason, part.text
        logprobs = _logprobs(self.service, self.body, part) if part.tokens else None
        if self.tools and said.startswith("{"):  # a call: sent as one piece when it is whole
            calls = (self.tools.calls(said) or []) if reason else []
            text = ""
            if calls:
                numbered = [{"index": number, **call} for number, call in enumerate(calls)]
                yield self._chunk(index, {"tool_calls": numbered}, None, None)
                reason = "tool_calls" if reason == "stop" else reason
        if text or logprobs:
            yield self._chunk(index, {"content": text} if text else {}, logprobs, None)
        if reason:
            yield self._chunk(index, {}, None, reason)

    def closing(self) -> Iterable[dict[str, Any]]:
        """The usage chunk, if it was asked for."""
        used = replies.usage(self.prompt_tokens, self.completion_tokens)
        note_usage(self.scope, self.service, self.body.user, used)
        self.service.log_text(self.scope, [message.plain() for message in self.body.messages], self.said)
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield self.header.reply([], used)

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: Any, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self.header.reply([choice])
