"""Who may call, how often, with how large a body. Keys are compared in constant time and never logged.

A server without keys listens on loopback only, but a web page that its user looks at can send requests there, in its
own name or under a name that it points at 127.0.0.1. So without keys only loopback's own names are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundling.serving.config import KEYS_VARIABLE, is_loopback
from foundling.serving.errors import ApiError
from foundling.serving.rate_limit import RateLimit
from foundling.serving.request_log import note

# The page itself holds nothing secret and asks for the key; probes have none.
OPEN_PATHS = frozenset({"/health", "/ready", "/", "/playground.js", "/playground.css"})


class RequireKey:
    """ASGI middleware that asks for `Authorization: Bearer KEY` and counts requests per key."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...], limit: RateLimit) -> None:
        self.app, self.limit = app, limit
        self.keys = tuple(_digest(key.encode()) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401 or 429 at the door."""
        if scope["type"] == "http":
            try:
                if not self.keys:
                    _refuse_strangers(scope)
                if scope["path"] not in OPEN_PATHS:
                    caller = self._caller(scope) if self.keys else 0
                    note(scope, key=caller)
                    self.limit.take(caller)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> int:
        """The number of the key that was sent, counted from 0."""
        header = dict(scope["headers"]).get(b"authorization", b"")
        given = _digest(header.removeprefix(b"Bearer ").strip())
        # Every key is compared in full: neither a match's place nor its prefix or length shows in the time taken.
        matches = [hmac.compare_digest(given, key) for key in self.keys]
        if not any(matches):
            message = "no valid API key: send 'Authorization: Bearer YOUR-KEY'"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return matches.index(True)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _refuse_strangers(scope: Scope) -> None:
    """Answer only what is asked under loopback's own names.

    Raises:
        ApiError: 403, naming the header.
    """
    headers = dict(scope["headers"])
    for name, place in ((b"host", "//%s"), (b"origin", "%s")):
        value = headers.get(name, b"").decode("latin-1")
        try:
            host = urlsplit(place % value).hostname or ""
        except ValueError:
            host = ""
        if value and not is_loopback(host):
            message = (
                f"{name.decode().title()} is {value!r}, and without API keys only this machine's pages are answered"
            )
            raise ApiError(403, f"{message}; set {KEYS_VARIABLE}", code="foreign_page")


class LimitBody:
    """ASGI middleware that refuses bodies over `limit` bytes, whether or not they announce their length, and bodies
    that take longer than `seconds` to arrive.

    What is too large is read to its end (up to `PATIENCE` times the limit) and thrown away: a client that is still
    sending would otherwise see a broken connection instead of the answer.
    """

    PATIENCE = 8

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self.app, self.limit, self.seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a body that is small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        seen, whole = 0, False
        end = asyncio.get_running_loop().time() + self.seconds

        async def timed() -> Message:
            nonlocal whole
            if whole:  # what comes now is the disconnect
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {self.seconds:g} seconds") from None
            whole = not message.get("more_body", False)
            return message

        async def counted() -> Message:
            nonlocal seen
            message = await timed()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                await self._drain(message, timed, seen)
                raise HTTPException(413, self._refusal().message)  # FastAPI passes only its own errors on from here
            return message

        if not announced.isdigit() or int(announced) > self.limit:
            with contextlib.suppress(HTTPException):  # too large and too slow: it is refused all the same
                await self._drain({"more_body": True}, timed, 0)
            await self._refusal().response()(scope, receive, send)
            return
        await self.app(scope, counted, send)

    async def _drain(self, message: Message, receive: Receive, seen: int) -> None:
        while message.get("more_body", False) and seen < self.PATIENCE * self.limit:
            message = await receive()
            seen += len(message.get("body", b""))

    def _refusal(self) -> ApiError:
        message = f"the body is larger than {self.limit} bytes"
        return ApiError(413, message, code="body_too_large", headers={"Connection": "close"})
