"""One thread that drives the engine, and streams from it into asyncio.

The engine is not thread-safe, so only this thread touches it: requests and cancellations arrive through a queue,
events leave through `call_soon_threadsafe`, once per step.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from foundling.core.memory import return_freed_memory
from foundling.serving.errors import ApiError, server_error

if TYPE_CHECKING:
    from foundling.inference.engine import Engine
    from foundling.inference.requests import Event, Request
    from foundling.serving.metrics import Metrics

T = TypeVar("T")
log = logging.getLogger("foundling.serving")
TRIM_SECONDS = 10.0  # prompts of ever new lengths leave holes in the heaps, which else grow for as long as it serves


class Stream:
    """The events of one request, as an async iterator that ends with the request's last choice.

    Leaving it early must be followed by `EngineLoop.cancel(stream)`, which frees the request's cache blocks.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.submitted = time.perf_counter()
        self.last_event = 0.0  # when the latest token came; 0: none yet
        self.loop = asyncio.get_running_loop()
        self.inbox: asyncio.Queue[list[Event] | Exception] = asyncio.Queue()
        self.id: Any = None
        self.cancelled = False
        self.unfinished = request.params.n  # choices still to end, as the engine's thread sees it

    async def __aiter__(self) -> AsyncIterator[Event]:
        left = self.request.params.n
        while left:
            item = await self.inbox.get()
            if isinstance(item, Exception):
                raise item
            for event in item:
                left -= event.finish_reason is not None
                yield event


class EngineLoop:
    """Runs `engine.step()` for as long as there is work; sleeps when there is none."""

    def __init__(self, engine: Engine, max_requests: int, metrics: Metrics) -> None:
        self.engine, self.max_requests, self.metrics = engine, max_requests, metrics
        self.held = 0  # requests submitted and not yet cancelled or ended
        self.commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.streams: dict[Any, Stream] = {}  # by the engine's request id; only the engine's thread writes it
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.door = threading.Lock()  # held to enqueue a request and to close: nothing is left waiting behind it
        self.closed = False

    def start(self) -> None:
        """Start the engine's thread."""
        self.thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in; open streams get an error."""
        self.commands.put(None)
        self.thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests can be answered."""
        return self.thread.is_alive() and not self.closed

    def submit(self, request: Request) -> Stream:
        """Queue a request, from a running event loop. A refusal by the engine is raised by the stream.

        Every stream must be given back with `cancel`, also when it has ended.

        Raises:
            ApiError: 503 if the engine has stopped; 429 if as many requests are held as may be.
        """
        stream = Stream(request)
        self._enqueue(lambda: self._add(stream))
        return stream

    def _enqueue(self, command: Callable[[], None]) -> None:
        if self.held >= self.max_requests:
            message = f"the server holds {self.held} requests, as many as it takes; try again soon"
            raise ApiError(429, message, code="queue_full", kind="rate_limit_error", headers={"Retry-After": "1"})
        with self.door:
            if not self.alive:
                raise ApiError(503, "the engine has stopped", kind="server_error", code="engine_stopped")
            self.held += 1
            self.commands.put(command)

    def cancel(self, stream: Stream) -> None:
        """Give a stream back: stop its request, if it still runs, and free its cache blocks."""
        self.held -= 1
        self.commands.put(lambda: self._cancel(stream))

    async def call(self, work: Callable[[Engine], T]) -> T:
        """The result of `work(engine)`, run by the engine's thread between two steps.

        Raises:
            ApiError: as `submit`.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._enqueue(lambda: self._work(work, done, loop))
        try:
            return await done
        finally:
            self.held -= 1

    def _work(self, work: Callable[[Engine], T], done: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
        try:
            result = work(self.engine)
        except Exception as error:  # a refusal is its caller's to see
            loop.call_soon_threadsafe(_settle, done, None, error)
            return
        loop.call_soon_threadsafe(_settle, done, result, None)

    def _add(self, stream: Stream) -> None:
        if stream.cancelled:
            return
        try:
            if self.closed:
                raise server_error("the server stopped before it began")
            stream.id = self.engine.add(stream.request)
        except Exception as error:  # a refusal is its caller's to see; the other requests go on
            self._send([(stream, error)])
            return
        self.streams[stream.id] = stream

    def _cancel(self, stream: Stream) -> None:
        stream.cancelled = True
        if self.streams.pop(stream.id, None) is not None:
            self.engine.cancel(stream.id)

    def _run(self) -> None:
        try:
            trimmed = time.monotonic()
            while self._obey():
                if self.streams:
                    self._deliver(self.engine.step())
                if time.monotonic() - trimmed > TRIM_SECONDS:
                    return_freed_memory()
                    trimmed = time.monotonic()
        except Exception:  # the thread's last words: nobody else would hear of it
            log.exception("the engine failed")
        with self.door:
            self.closed = True
        error = server_error("the server stopped before it finished")
        self._send([(stream, error) for stream in self.streams.values()])
        self.streams.clear()
        while not self.commands.empty():
            if command := self.commands.get():
                command()

    def _obey(self) -> bool:
        """Carry out what waits in the queue; without work, wait a while for some. False: asked to stop."""
        wait = not self.streams
        while True:
            try:
                command = self.commands.get(block=wait, timeout=TRIM_SECONDS)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            wait = False

    def _deliver(self, events: list[Event]) -> None:
        mail: dict[Any, list[Event]] = {}
        for event in events:
            mail.setdefault(event.request_id, []).append(event)
        addressed = [(self.streams[key], own) for key, own in mail.items() if key in self.streams]
        self.metrics.observe(addressed)
        for stream, own in addressed:
            stream.unfinished -= sum(event.finish_reason is not None for event in own)
            if stream.unfinished == 0:
                del self.streams[stream.id]
        self._send(addressed)

    def _send(self, mail: list[tuple[Stream, Any]]) -> None:
        if mail:
            mail[0][0].loop.call_soon_threadsafe(_put_all, mail)


def _settle(done: asyncio.Future[T], result: T | None, error: Exception | None) -> None:
    if done.cancelled():
        return
    if error:
        done.set_exception(error)
    else:
        done.set_result(result)  # type: ignore[arg-type]


def _put_all(mail: list[tuple[Stream, Any]]) -> None:
    for stream, item in mail:
        stream.inbox.put_nowait(item)
