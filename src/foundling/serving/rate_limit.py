"""So many requests a minute for each API key: a token bucket per key."""

from __future__ import annotations

import time
from collections.abc import Callable

from foundling.serving.errors import ApiError


class RateLimit:
    """Allows `per_minute` requests a minute, in bursts of up to as many.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, per_minute: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.now = per_minute, now
        self.buckets: dict[int, tuple[float, float]] = {}  # caller -> (requests left, when that was true)

    def take(self, caller: int) -> None:
        """Count one request.

        Raises:
            ApiError: 429 with the time to wait.
        """
        if self.per_minute is None:
            return
        now, rate = self.now(), self.per_minute / 60
        left, since = self.buckets.get(caller, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - since) * rate)
        if left < 1:
            wait = (1 - left) / rate
            self.buckets[caller] = (left, now)
            message = f"more than {self.per_minute} requests a minute; try again in {wait:.1f} seconds"
            headers = {"Retry-After": str(int(wait) + 1)}
            raise ApiError(429, message, code="rate_limit_exceeded", kind="rate_limit_error", headers=headers)
        self.buckets[caller] = (left - 1, now)
