"""Stopping in good order: SIGTERM and SIGINT are noted, and the loop ends after saving."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from foundling.core.errors import Interrupted

WATCHED = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While the block runs, the first SIGTERM or SIGINT only sets `received`; a second one acts as usual."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def raise_if_received(self, step: int, steps: int) -> None:
        """Raise Interrupted if a signal came."""
        if self.received is not None:
            name = signal.Signals(self.received).name
            raise Interrupted(f"stopped by {name} after step {step} of {steps}; a checkpoint is saved", self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
