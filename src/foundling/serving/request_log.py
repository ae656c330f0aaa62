"""One JSON line per request: who, what, how many tokens, how long. No text, unless asked for."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundling.core.errors import FoundlingError

if TYPE_CHECKING:
    from foundling.serving.service import Service

CLIENT_CLOSED = 499  # nginx's status for "the client left"


def appender(path: Path | None) -> Callable[[dict[str, Any]], None]:
    """A function that appends a row to a file (or standard error) in one write, so that a kill cannot tear a line.

    Raises:
        FoundlingError: the file cannot be written.
    """
    target = sys.stderr.fileno() if path is None else open_to_append(path)

    def append(row: dict[str, Any]) -> None:
        os.write(target, json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")

    return append


def open_to_append(path: Path) -> int:
    """A file's descriptor; what is written lands at its end, and only its owner may read it.

    Raises:
        FoundlingError: the file cannot be written.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise FoundlingError(f"cannot write to {path}", error.strerror or str(error)) from None


class LogRequests:
    """ASGI middleware: writes a request's line before the last bytes of its answer leave, so that an answered request
    is always in the log. Routes add what they know with `note`."""

    def __init__(
        self, app: ASGIApp, append: Callable[[dict[str, Any]], None], count: Callable[[str, int], None]
    ) -> None:
        self.app, self.append, self.count = app, append, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and log at the end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, written = time.perf_counter(), CLIENT_CLOSED, False
        row = {"time": time.time(), "request_id": f"req-{uuid.uuid4().hex}", "path": scope["path"]}
        scope.setdefault("state", {})["log"] = row

        def write(final: int) -> None:
            nonlocal written
            written = True
            self.append({**row, "status": final, "seconds": round(time.perf_counter() - began, 6)})
            route = scope.get("route")
            self.count(route.path if route else "unknown", final)

        async def logged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", str(row["request_id"]).encode())]
            elif not message.get("more_body", False):
                write(status)
            await send(message)

        try:
            await self.app(scope, receive, logged)
        finally:
            if not written:
                write(CLIENT_CLOSED)


def note(scope: Scope, **facts: Any) -> None:
    """Add facts to the request's line."""
    scope["state"]["log"].update(facts)


def note_usage(scope: Scope, service: Service, user: str | None, used: dict[str, Any]) -> None:
    """Add what a model's answer cost, and who asked if the caller said."""
    tokens = {name: used[name] for name in ("prompt_tokens", "completion_tokens")}
    note(scope, model=service.name, **tokens, **({"user": user} if user else {}))
