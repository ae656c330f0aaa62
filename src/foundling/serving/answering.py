"""From submitted requests to an HTTP answer: whole, or as server-sent events; cancelled when the caller leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from foundling.core.errors import FoundlingError
from foundling.serving.engine_loop import Stream
from foundling.serving.errors import ApiError, server_error
from foundling.serving.replies import Choice
from foundling.serving.request_log import CLIENT_CLOSED, note
from foundling.serving.service import Service

if TYPE_CHECKING:
    from foundling.inference.requests import Request

log = logging.getLogger("foundling.serving")
T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
PARTING = 5.0  # seconds: what a stream that ran out of time gets to say so


async def collect(service: Service, requests: Sequence[Request], http: HttpRequest) -> list[Choice]:
    """Run the requests to their end; all are cancelled if the caller disconnects or one of them fails.

    Returns:
        The choices of the first request, then of the second, and so on, as the server's rules let them be shown.

    Raises:
        ApiError: a refusal, a failed continuation, or the time is up.
    """
    async with in_time(service):
        return await unless_gone(_answered(service, requests), http)


@contextlib.asynccontextmanager
async def in_time(service: Service, param: str | None = None) -> AsyncIterator[None]:
    """What is done inside may take as long as a request may.

    Raises:
        ApiError: the time is up, or the engine refused `param`.
    """
    try:
        async with asyncio.timeout(service.config.timeout_seconds):
            yield
    except FoundlingError as error:
        raise ApiError(400, str(error), param=param) from None
    except TimeoutError:
        raise _late(service) from None


def _late(service: Service) -> ApiError:
    message = f"no answer within {service.config.timeout_seconds:g} seconds"
    return ApiError(504, message, kind="server_error", code="timeout")


async def _answered(service: Service, requests: Sequence[Request]) -> list[Choice]:
    """All choices; those that the rules forbid are tried again, if they can come out differently."""
    choices = await _run(service, requests)
    owners = [request for request in requests for _ in range(request.params.n)]
    for attempt in range(1, service.rules.retries + 1):
        again = [i for i, one in enumerate(choices) if service.rules.fails(one) and owners[i].params.temperature > 0]
        if not again:
            break
        fresh = await _run(service, [_another(owners[i], attempt * len(owners) + i) for i in again])
        for i, choice in zip(again, fresh, strict=True):
            spent = choices[i].completion_tokens + choice.completion_tokens  # what is thrown away was computed too
            choices[i] = replace(choice, completion_tokens=spent)
    return [service.rules.clean(choice) for choice in choices]


def _another(request: Request, number: int) -> Request:
    """The same for one choice, drawn differently."""
    seed = request.params.seed
    seed = None if seed is None else (seed + number) % 2**63
    return replace(request, params=replace(request.params, n=1, seed=seed))


async def _run(service: Service, requests: Sequence[Request]) -> list[Choice]:
    """The engine's choices, or the answer cache's."""
    known = [service.cache.find(request) for request in requests]
    missing = [request for request, answer in zip(requests, known, strict=True) if answer is None]
    streams = _submit(service, missing)
    try:
        fresh = [await _fill(stream, service.tokenizer.stop_ids) for stream in streams]
    finally:
        _release(service, streams)
    for request, choices in zip(missing, fresh, strict=True):
        service.cache.keep(request, choices)
    service.metrics.cached.inc(len(requests) - len(missing))
    rest = iter(fresh)
    return [choice for answer in known for choice in (next(rest) if answer is None else answer)]


async def _fill(stream: Stream, stop_ids: tuple[int, ...]) -> list[Choice]:
    choices = [Choice() for _ in range(stream.request.params.n)]
    async for event in stream:
        choices[event.index].add(event, stop_ids)
    return choices


def _submit(service: Service, requests: Sequence[Request]) -> list[Stream]:
    """Submit all or, if one is refused, none."""
    streams: list[Stream] = []
    try:
        for request in requests:
            streams.append(service.engine.submit(request))
    except ApiError:
        _release(service, streams)
        raise
    return streams


def _release(service: Service, streams: list[Stream]) -> None:
    for stream in streams:
        service.engine.cancel(stream)


async def unless_gone(work: Coroutine[Any, Any, T], http: HttpRequest) -> T:
    """The result of `work`, unless the caller disconnects first."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_CLOSED, "the client closed the connection")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class Format(Protocol):
    """How one kind of answer is cut into chunks."""

    def opening(self) -> Iterable[dict[str, Any]]:
        """Chunks sent before the first event."""

    def chunks(self, number: int, index: int, part: Choice) -> Iterable[dict[str, Any]]:
        """The chunks that a piece of choice `index` of the request with this number becomes."""

    def closing(self) -> Iterable[dict[str, Any]]:
        """Chunks sent after the last event, such as usage."""


Pieces = AsyncIterator[tuple[int, int, Choice]]  # request, choice, what it says next


async def server_sent(service: Service, requests: Sequence[Request], form: Format, http: HttpRequest) -> Response:
    """Stream the requests' choices, one request after the other (they run side by side).

    The first piece is awaited before the headers go out, so a refusal by the engine still has its own status. Answers
    that must be whole before they are shown, or are known already, come as one piece for each choice.
    """
    if service.rules.hold_answers or all(service.cache.find(request) is not None for request in requests):
        choices = await collect(service, requests, http)
        return EventStream(_encoded(form, _whole(choices, requests[0].params.n)), None, service.config.timeout_seconds)
    streams = _submit(service, requests)
    pieces = _in_turn(service, streams)
    try:
        first = await unless_gone(_first(pieces), http)
    except FoundlingError as error:
        _release(service, streams)
        raise ApiError(400, str(error)) from None
    except BaseException:
        _release(service, streams)
        raise
    body = _encoded(form, _from(first, pieces))
    return EventStream(body, lambda: _release(service, streams), service.config.timeout_seconds)


class EventStream(StreamingResponse):
    """Server-sent events that call `release` however the answer ends: finished, failed, too slow, caller gone."""

    def __init__(self, body: AsyncIterator[bytes], release: Callable[[], None] | None, seconds: float) -> None:
        super().__init__(body, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.release, self.seconds = release, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a reader that takes too long is cut off; release whatever happens."""
        try:
            async with asyncio.timeout(self.seconds + PARTING):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            note(scope, cut="the reader was too slow")
        finally:
            if self.release:
                self.release()


async def _in_turn(service: Service, streams: list[Stream]) -> Pieces:
    """The pieces of the streams' choices.

    Raises:
        ApiError: a continuation failed, or the time is up.
    """
    end = asyncio.get_running_loop().time() + service.config.timeout_seconds
    stop_ids = service.tokenizer.stop_ids
    for number, stream in enumerate(streams):
        events = aiter(stream)
        while True:
            try:
                async with asyncio.timeout_at(end):
                    event = await anext(events, None)
            except TimeoutError:
                raise _late(service) from None
            if event is None:
                break
            part = Choice()
            part.add(event, stop_ids)
            yield number, event.index, part


async def _whole(choices: list[Choice], n: int) -> Pieces:
    for place, choice in enumerate(choices):
        yield place // n, place % n, choice


async def _first(pieces: Pieces) -> tuple[int, int, Choice]:
    return await anext(pieces)


async def _from(first: tuple[int, int, Choice], rest: Pieces) -> Pieces:
    yield first
    async for piece in rest:
        yield piece


async def _encoded(form: Format, pieces: Pieces) -> AsyncIterator[bytes]:
    try:
        for chunk in form.opening():
            yield _sse(chunk)
        async for piece in pieces:
            for chunk in form.chunks(*piece):
                yield _sse(chunk)
        for chunk in form.closing():
            yield _sse(chunk)
        yield DONE
    except FoundlingError as error:
        yield _sse(ApiError(400, str(error)).body())
    except ApiError as error:
        yield _sse(error.body())
    except Exception:  # the headers are out: the caller can only be told in the stream
        log.exception("an answer broke off in the middle of its stream")
        yield _sse(server_error().body())


def _sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
