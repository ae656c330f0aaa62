"""HTTP to an OpenAI-compatible URL: one client, retries with backoff, several requests at a time, clear errors."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx

from foundling.core.errors import FoundlingError

KEY_VARIABLE, OPENAI_VARIABLE = "FOUNDLING_API_KEY", "OPENAI_API_KEY"
TRANSIENT = frozenset({408, 409, 429, 500, 502, 503, 504})  # worth asking again
LONGEST_WAIT = 60.0  # seconds, between two attempts

Item = TypeVar("Item")
Result = TypeVar("Result")


class EndpointError(FoundlingError):
    """The endpoint refused, could not be reached, or answered what cannot be used.

    Attributes:
        status: HTTP status; None if there was no answer.
        code: OpenAI's machine-readable code, such as "context_length_exceeded".
    """

    def __init__(self, what: str, why: str = "", fix: str = "", status: int | None = None, code: str = "") -> None:
        super().__init__(what, why, fix)
        self.status, self.code = status, code

    @property
    def too_long(self) -> bool:
        """Whether the prompt and the answer asked for do not fit in the model's context."""
        return self.status == 400 and (self.code == "context_length_exceeded" or "context length" in str(self).lower())


class Endpoint:
    """An OpenAI-compatible base URL. Thread-safe.

    Args:
        url: such as "http://localhost:8000/v1"; without a path, "/v1" is meant.
        api_key: sent as a bearer token; None: FOUNDLING_API_KEY (OPENAI_API_KEY for api.openai.com) of the environment.
        timeout: seconds that one answer may take.
        retries: how often a request is sent again after a failure that may pass (no connection, 429, 5xx).
        backoff: seconds before the first retry, doubled each time, with jitter; the server's Retry-After goes first.
        concurrency: most requests under way at once.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        retries: int = 5,
        backoff: float = 0.5,
        concurrency: int = 16,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise FoundlingError(f"{url!r} is not a base URL", 'expected a form like "http://localhost:8000/v1"')
        self.url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))
        variable = OPENAI_VARIABLE if parts.hostname == "api.openai.com" else KEY_VARIABLE
        key = os.environ.get(variable) if api_key is None else api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.retries, self.backoff, self.concurrency = retries, backoff, concurrency
        limits = httpx.Limits(max_connections=concurrency)
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout, connect=10.0), limits=limits)
        self._key_variable = variable

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        return self._retried(lambda: self._read(self._client.get(self.url + path), path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to `body`."""
        return self._retried(lambda: self._read(self._client.post(self.url + path, json=body), path))

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """The answer's server-sent events as they come. Only the beginning is retried."""
        with contextlib.ExitStack() as stack:
            request = self._client.build_request("POST", self.url + path, json=body)

            def begin() -> httpx.Response:
                response = self._client.send(request, stream=True)
                if response.status_code != 200:
                    with contextlib.closing(response):
                        response.read()
                        self._read(response, path)
                stack.callback(response.close)
                return response

            try:
                for line in self._retried(begin).iter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data and data != "[DONE]":
                        yield self._event(data)
            except httpx.HTTPError as error:
                raise EndpointError(f"{self.url} broke off its answer", str(error)) from None

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work` of every item, `concurrency` at a time, in order; the first error cancels what has not begun."""
        if len(items) <= 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(self.concurrency, len(items))) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _retried(self, send: Callable[[], Result]) -> Result:
        for attempt in range(self.retries + 1):
            wait = self.backoff * 2**attempt * random.uniform(0.5, 1.5)
            try:
                return send()
            except httpx.TransportError as error:
                failure = self._unreachable(error)
            except _Transient as error:
                failure, wait = error.failure, error.wait or wait
            if attempt == self.retries:
                raise failure
            time.sleep(min(wait, LONGEST_WAIT))
        raise AssertionError("the last attempt returns or raises")

    def _read(self, response: httpx.Response, path: str) -> Any:
        status = response.status_code
        try:
            body = response.json()
        except ValueError:
            body = None
        if status == 200 and isinstance(body, dict):
            return body
        failure = self._refusal(status, body, path)
        if status in TRANSIENT:
            raise _Transient(failure, _seconds(response.headers.get("Retry-After")))
        raise failure

    def _refusal(self, status: int, body: Any, path: str) -> EndpointError:
        error = body.get("error", body) if isinstance(body, dict) else None
        message = str(error.get("message") or error) if isinstance(error, dict) else str(error or "")
        code = str(error.get("code") or "") if isinstance(error, dict) else ""
        fix = ""
        if status in (401, 403):
            fix = f"set {self._key_variable} to a key that it accepts"
        elif status == 404 and "model" not in message:
            fix = 'a base URL usually ends in "/v1"; not every server has every path'
        elif 300 <= status < 400:
            fix = "redirects are not followed: give the address that it points to"
        said = message or ("an answer that is not a JSON object" if status == 200 else "no explanation")
        return EndpointError(f"{self.url}{path} answered {status}", said, fix, status, code)

    def _event(self, data: str) -> Any:
        try:
            event = json.loads(data)
        except ValueError:
            raise EndpointError(f"{self.url} sent a chunk that is not JSON", data[:200]) from None
        if "error" in event:
            raise self._refusal(500, event, "")
        return event

    def _unreachable(self, error: httpx.TransportError) -> EndpointError:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException):
            reason = f"no answer within {self._client.timeout.read:g} seconds"
        return EndpointError(f"{self.url} cannot be reached", reason, "is the server running, and is the URL right?")


class _Transient(Exception):
    """A refusal that may pass."""

    def __init__(self, failure: EndpointError, wait: float | None) -> None:
        super().__init__(str(failure))
        self.failure, self.wait = failure, wait


def _seconds(header: str | None) -> float | None:
    """Retry-After's number of seconds; None if it is absent or a date."""
    return float(header) if header and header.replace(".", "", 1).isdigit() else None
