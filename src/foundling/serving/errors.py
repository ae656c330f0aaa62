"""Every refusal in OpenAI's error shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from foundling.core.errors import FoundlingError, nearest

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: one sentence for the caller.
        param: the field at fault, such as "messages[0].role".
        code: OpenAI's machine-readable code, such as "model_not_found".
        kind: OpenAI's error type.
        headers: extra response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The response body, also what a stream sends when it fails half-way."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


class ErrorFields(BaseModel):
    """OpenAI's description of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorFields


DOCUMENTED: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}


def refused(param: str, message: str) -> ApiError:
    """A 400 that names the field it is about."""
    return ApiError(400, message, param=param)


def server_error(message: str = "the server failed while answering; the other requests go on") -> ApiError:
    """A 500: our fault, not the caller's."""
    return ApiError(500, message, kind="server_error", code="internal_error")


def install(app: FastAPI) -> None:
    """Answer every kind of failure of `app` in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(FoundlingError)
    async def user_error(request: Request, error: FoundlingError) -> JSONResponse:
        return ApiError(400, str(error)).response()

    @app.exception_handler(RecursionError)
    async def too_deep(request: Request, error: RecursionError) -> JSONResponse:
        return ApiError(400, "the body is nested too deeply").response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return from_validation(error, await _known_fields(request)).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return ApiError(404, _not_here(request.url.path), code="unknown_url").response()
        if error.status_code == 405:
            message = f"{request.method} is not served at {request.url.path}"
            return ApiError(405, message, code="method_not_allowed", headers=dict(error.headers or {})).response()
        code = "body_too_large" if error.status_code == 413 else None
        return ApiError(error.status_code, str(error.detail), code=code).response()

    @app.exception_handler(Exception)
    async def crashed(request: Request, error: Exception) -> JSONResponse:
        return server_error().response()


def _not_here(path: str) -> str:
    if path.startswith("/v1/responses"):
        return f"{path} is not served here: instead of the Responses API there is /v1/chat/completions"
    return f"{path} is not served here"


def from_validation(error: RequestValidationError, known: Sequence[str]) -> ApiError:
    """The 400 for the first thing wrong in a body: which field, what was there, what was expected."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first.get('ctx', {}).get('error', 'cannot be parsed')}")
    param = _path([part for part in first["loc"] if part != "body"])
    if first["type"] == "missing":
        message = f"'{param}' is required" if param else "a JSON body is required"
    elif first["type"] == "extra_forbidden":
        message = f"'{param}' is not supported by this server. {nearest(param, known)}".strip()
    else:
        message = f"'{param}': {first['msg'].removeprefix('Value error, ')}"
    return ApiError(400, message, param=param or None)


async def _known_fields(request: Request) -> list[str]:
    body = getattr(request.scope.get("route"), "body_field", None)
    model = body.field_info.annotation if body is not None else None
    return list(getattr(model, "model_fields", {}))


def _path(parts: list[int | str]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
