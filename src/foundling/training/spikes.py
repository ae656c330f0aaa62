"""Loss spikes: telling a bad step from noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

ENOUGH = 20  # steps before anything can be called unusual


def is_spike(loss: float, recent: Sequence[float], threshold: float) -> bool:
    """Whether a loss is `threshold` standard deviations above the median of the recent ones, or not a number.

    The deviation is taken from the median absolute deviation, so that an earlier spike does not hide the next one.
    """
    if not math.isfinite(loss):
        return True
    if len(recent) < ENOUGH:
        return False
    middle = statistics.median(recent)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in recent)
    return loss > middle + threshold * max(spread, 1e-3 * abs(middle))
