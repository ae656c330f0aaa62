"""Who may call, how often, with how large a body. Keys are compared in constant time and never logged."""

from __future__ import annotations

import hmac

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundling.serving.errors import ApiError
from foundling.serving.rate_limit import RateLimit
from foundling.serving.request_log import note

# The page itself holds nothing secret and asks for the key; probes have none.
OPEN_PATHS = frozenset({"/health", "/ready", "/", "/playground.js", "/playground.css"})


class RequireKey:
    """ASGI middleware that asks for `Authorization: Bearer KEY` and counts requests per key."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...], limit: RateLimit) -> None:
        self.app, self.limit = app, limit
        self.keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401 or 429 at the door."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
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
        given = header.removeprefix(b"Bearer ").strip()
        # Every key is compared in full: neither a match's place in the list nor its prefix shows in the time taken.
        matches = [hmac.compare_digest(given, key) for key in self.keys]
        if not any(matches):
            message = "no valid API key: send 'Authorization: Bearer YOUR-KEY'"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return matches.index(True)


class LimitBody:
    """ASGI middleware that refuses bodies over `limit` bytes, whether or not they announce their length.

    What is too large is read to its end (up to `PATIENCE` times the limit) and thrown away: a client that is still
    sending would otherwise see a broken connection instead of the answer.
    """

    PATIENCE = 8

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a body that is small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                await self._drain(message, receive, seen)
                raise HTTPException(413, self._refusal().message)  # FastAPI passes only its own errors on from here
            return message

        if not announced.isdigit() or int(announced) > self.limit:
            await self._drain({"more_body": True}, receive, 0)
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
