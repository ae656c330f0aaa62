"""From submitted requests to an HTTP answer: whole, or as server-sent events; cancelled when the caller leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from foundling.core.errors import FoundlingError
from foundling.serving.engine_loop import Stream
from foundling.serving.errors import ApiError
from foundling.serving.replies import Choice
from foundling.serving.request_log import CLIENT_CLOSED
from foundling.serving.service import Service

if TYPE_CHECKING:
    from foundling.inference.requests import Event, Request

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"


async def collect(service: Service, requests: Sequence[Request], http: HttpRequest) -> list[Choice]:
    """Run the requests to their end; all are cancelled if the caller disconnects or one of them fails.

    Returns:
        The choices of the first request, then of the second, and so on.

    Raises:
        ApiError: a refusal, a failed continuation, or the time is up.
    """
    known = [service.cache.find(request) for request in requests]
    missing = [request for request, answer in zip(requests, known, strict=True) if answer is None]
    streams = _submit(service, missing)
    try:
        async with asyncio.timeout(service.config.timeout_seconds):
            fresh = await _unless_gone(_gather(streams, service.tokenizer.stop_ids), http)
    except FoundlingError as error:
        raise ApiError(400, str(error)) from None
    except TimeoutError:
        message = f"no answer within {service.config.timeout_seconds:g} seconds"
        raise ApiError(504, message, kind="server_error", code="timeout") from None
    finally:
        _release(service, streams)
    for request, choices in zip(missing, fresh, strict=True):
        service.cache.keep(request, choices)
    service.metrics.cached.inc(len(requests) - len(missing))
    rest = iter(fresh)
    return [choice for answer in known for choice in (next(rest) if answer is None else answer)]


async def _gather(streams: list[Stream], stop_ids: tuple[int, ...]) -> list[list[Choice]]:
    return [await _fill(stream, stop_ids) for stream in streams]


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


async def _unless_gone(work: Coroutine[Any, Any, T], http: HttpRequest) -> T:
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

    def chunks(self, number: int, event: Event) -> Iterable[dict[str, Any]]:
        """The chunks that an event of the request with this number becomes."""

    def closing(self) -> Iterable[dict[str, Any]]:
        """Chunks sent after the last event, such as usage."""


async def server_sent(service: Service, requests: Sequence[Request], form: Format, http: HttpRequest) -> Response:
    """Stream the requests' events, one request after the other (they run side by side).

    The first event is awaited before the headers go out, so a refusal by the engine still has its own status.
    """
    streams = _submit(service, requests)
    events = _in_turn(streams)
    try:
        first = await _unless_gone(_first(events), http)
    except FoundlingError as error:
        _release(service, streams)
        raise ApiError(400, str(error)) from None
    except BaseException:
        _release(service, streams)
        raise
    body = _encoded(form, first, events)
    return EventStream(body, lambda: _release(service, streams), service.config.timeout_seconds)


class EventStream(StreamingResponse):
    """Server-sent events that call `release` however the answer ends: finished, failed, too slow, caller gone."""

    def __init__(self, body: AsyncIterator[bytes], release: Callable[[], None], seconds: float) -> None:
        super().__init__(body, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.release, self.seconds = release, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a reader that takes too long is cut off; release whatever happens."""
        try:
            async with asyncio.timeout(self.seconds):
                await super().__call__(scope, receive, send)
        finally:
            self.release()


async def _in_turn(streams: list[Stream]) -> AsyncIterator[tuple[int, Event]]:
    for number, stream in enumerate(streams):
        async for event in stream:
            yield number, event


async def _first(events: AsyncIterator[tuple[int, Event]]) -> tuple[int, Event]:
    return await anext(events)


async def _encoded(
    form: Format, first: tuple[int, Event], events: AsyncIterator[tuple[int, Event]]
) -> AsyncIterator[bytes]:
    try:
        for chunk in (*form.opening(), *form.chunks(*first)):
            yield _sse(chunk)
        async for number, event in events:
            for chunk in form.chunks(number, event):
                yield _sse(chunk)
        for chunk in form.closing():
            yield _sse(chunk)
        yield DONE
    except FoundlingError as error:
        yield _sse(ApiError(400, str(error)).body())
    except ApiError as error:
        yield _sse(error.body())


def _sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
