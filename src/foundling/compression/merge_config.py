"""How fine-tunes of one base become one model. No torch."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option


class MergeConfig(Config):
    """Weights of several fine-tunes of one base, joined."""

    method: Literal["average", "arithmetic"] = option(
        "average", "average of the weights (model soup); arithmetic: the base plus what each fine-tune changed"
    )
    weights: tuple[float, ...] = option(
        (), "of each model, in the order given; none: equal shares (average) or 1 each (arithmetic)"
    )
