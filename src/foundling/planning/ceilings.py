"""Ceilings: when the text runs out, how far the power reaches, and what a multiple of today's compute buys."""

from __future__ import annotations

import math

from foundling.core.errors import FoundlingError
from foundling.planning.answer import Answer, Figure, positive
from foundling.planning.compute import POWER_OVERHEAD, Devices
from foundling.planning.scaling_law import Law, beyond

TEXT_STOCK, STOCK_LOW, STOCK_HIGH = 300e12, 100e12, 1000e12
TEXT_SOURCE = (
    "300T tokens of public human text that are good enough, several passes counted, 90% interval 100T-1000T: "
    "Villalobos et al., June 2024, arXiv:2211.04325v2; epoch.ai"
)
SET_SOURCE = "15T tokens in April 2024: Llama 3, arXiv:2407.21783"
GROWTH_SOURCE = (
    "training sets of language models grow about 3 times a year: epoch.ai/data-insights/dataset-size-trend (3.7 in its "
    "version of June 2024, 3.1 and 3 in later ones)"
)
POWER_SOURCE = (
    "data centres use 1-2% of the world's electricity, so that they can grow at most 50 to 100 times: the textbook's "
    "bound (Huyen 2025, AI Engineering, chapter 2), a rough one"
)


def text_runs_out(tokens: float, year: float, growth: float, stock: float) -> float:
    """The year in which a training set that grows by `growth` a year is as large as the stock."""
    if growth <= 1:
        raise FoundlingError(
            f"growth is {growth:g} a year", "a factor above 1 was expected: 3 is three times as much each year"
        )
    start = positive("tokens", tokens)
    return year + max(0.0, math.log(positive("the stock", stock) / start) / math.log(growth))


def ceilings(
    law: Law,
    flops: float,
    multiple: float,
    tokens: float,
    year: float,
    growth: float,
    where: Devices,
    megawatts: float,
) -> Answer:
    """What `multiple` times a budget means for size, text and loss; when text runs out; what a site's power feeds.

    Args:
        law: whose optimum splits the compute.
        flops: today's budget.
        tokens, year: a training set of today, and when.
        megawatts: of a site.
    """
    positive("the number of FLOPs", flops)
    positive("the multiple", multiple)
    now, then = law.optimum(flops), law.optimum(flops * multiple)
    fed = positive("megawatts", megawatts) * 1e6 / (where.watts * POWER_OVERHEAD)
    at = {name: text_runs_out(tokens, year, growth, s) for name, s in
          (("value", TEXT_STOCK), ("low", STOCK_LOW), ("high", STOCK_HIGH))}  # fmt: skip
    figures = [
        Figure("the text runs out in", at["value"], "year", at["low"], at["high"]),
        Figure(f"parameters at {multiple:g}× compute", then.parameters / now.parameters, "times"),
        Figure(f"tokens at {multiple:g}× compute", then.tokens / now.tokens, "times"),
        Figure("loss today", now.loss),
        Figure(f"loss at {multiple:g}× compute", then.loss),
        Figure("share of the reducible loss that this removes", 1 - (then.loss - law.E) / (now.loss - law.E), "share"),
        Figure("tokens that this wants", then.tokens, "tokens"),
        Figure("of the stock of text", then.tokens / TEXT_STOCK, "share"),
        Figure(f"devices on {megawatts:g} MW", fed, "count"),
        Figure("their FLOPs in 100 days at 40%", fed * where.rate * 0.4 * 100 * 86400, "FLOP"),
    ]
    return Answer(
        f"Ceilings from {flops:.3g} FLOP",
        figures,
        [
            "year = start + ln(stock / tokens) / ln(growth)",
            f"optimum of L = {law.formula()} at C = 6ND",
            "devices = power / (watts × PUE)",
        ],
        [
            f"a set of {tokens:.3g} tokens in {year:.1f}, {growth:g} times larger each year; each text read once",
            f"{where.watts:.0f} W a device, times {POWER_OVERHEAD}; {where.precision} rate",
        ],
        [TEXT_SOURCE, SET_SOURCE, GROWTH_SOURCE, POWER_SOURCE, law.source, where.source],
        beyond(law, flops * multiple),
    )
