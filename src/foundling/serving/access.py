"""Who may call: API keys, compared in constant time and never logged."""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from foundling.serving.errors import ApiError

OPEN_PATHS = frozenset({"/health"})


class RequireKey:
    """ASGI middleware that asks for `Authorization: Bearer KEY` on everything but the health check."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app = app
        self.keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401 at the door."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or not self.keys or self._admitted(scope):
            await self.app(scope, receive, send)
            return
        message = "no valid API key: send 'Authorization: Bearer YOUR-KEY'"
        error = ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        await error.response()(scope, receive, send)

    def _admitted(self, scope: Scope) -> bool:
        header = dict(scope["headers"]).get(b"authorization", b"")
        given = header.removeprefix(b"Bearer ").strip()
        # Every key is compared in full: neither a match's place in the list nor its prefix shows in the time taken.
        return sum([hmac.compare_digest(given, key) for key in self.keys]) > 0


class LimitBody:
    """ASGI middleware that refuses bodies over `limit` bytes, whether or not they announce their length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, counting the body's bytes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if int(dict(scope["headers"]).get(b"content-length", b"0")) > self.limit:
            await self._refusal().response()(scope, receive, send)
            return
        seen = 0

        async def counted() -> dict:  # type: ignore[type-arg]
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise self._refusal()
            return dict(message)

        await self.app(scope, counted, send)

    def _refusal(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.limit} bytes", code="body_too_large")
