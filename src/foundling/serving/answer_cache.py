"""Whole answers kept for requests that always have the same one: greedy, or with a seed."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundling.inference.requests import Request
    from foundling.serving.replies import Choice


class AnswerCache:
    """The `room` most recently used answers of one model; keyed by everything that determines them."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.answers: OrderedDict[str, list[Choice]] = OrderedDict()

    def find(self, request: Request) -> list[Choice] | None:
        """The answer to a pinned request that was given before."""
        key = self._key(request)
        if key is None or key not in self.answers:
            return None
        self.answers.move_to_end(key)
        return self.answers[key]

    def keep(self, request: Request, choices: list[Choice]) -> None:
        """Remember a pinned request's answer."""
        key = self._key(request)
        if key is None:
            return
        self.answers[key] = choices
        if len(self.answers) > self.room:
            self.answers.popitem(last=False)

    def _key(self, request: Request) -> str | None:
        params = request.params
        pinned = params.seed is not None or params.temperature == 0
        if not self.room or not pinned:
            return None
        return repr((list(request.prompt_ids), params))  # a frozen dataclass of plain values: its repr says all of it
