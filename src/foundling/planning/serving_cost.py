"""What served tokens cost: from a measured throughput, or from the bytes and FLOPs that a device must move."""

from __future__ import annotations

from foundling.core.units import human_count
from foundling.models import cost
from foundling.planning.answer import HOUR_S, Answer, Figure, positive, share, whole
from foundling.planning.compute import Devices
from foundling.planning.subject import Subject

BANDWIDTH_SHARE, RATE_SHARE = 0.6, 0.5  # of the peaks, that good engines reach in decoding and in large products
BITS = (16.0, 8.0, 4.0)


def per_million(tokens_per_s: float, price_per_hour: float, load: float = 1.0) -> float:
    """The cost of a million tokens.

    Args:
        tokens_per_s: measured, with the device busy.
        load: share of the time in which it is busy.
    """
    speed = positive("tokens a second", tokens_per_s) * share("load", load)
    return positive("the price per hour", price_per_hour) / HOUR_S / speed * 1e6


def decode_speed(model: Subject, where: Devices, batch: int, context: int, bits: float = 16) -> float:
    """Tokens a second of decoding by the roofline: the slower of reading all bytes and doing all FLOPs.

    Weights are read once a step, the cache once a sequence; a step makes `batch` tokens.
    """
    shape = model.shape()
    read = cost.weight_bytes(shape, bits / 8) + batch * cost.state_bytes(shape, context)
    by_bytes = read / (BANDWIDTH_SHARE * where.bandwidth * where.count)
    by_flops = batch * cost.flops_per_token(shape, context) / (RATE_SHARE * where.rate * where.count)
    return batch / max(by_bytes, by_flops)


def measured(tokens_per_s: float, price_per_hour: float, load: float, training_cost: float, tokens: float) -> Answer:
    """Cost per million tokens from a measured throughput, training spread over the tokens to be served.

    Args:
        training_cost: fixed; 0: leave it out.
        tokens: that will be served over the model's life.
    """
    price = per_million(tokens_per_s, price_per_hour, load)
    figures = [
        Figure("a million tokens", price, "money"),
        Figure("tokens an hour", tokens_per_s * load * HOUR_S, "tokens"),
    ]
    if training_cost:
        fixed = positive("the training cost", training_cost) / positive("tokens over the life", tokens) * 1e6
        figures += [
            Figure("training, spread over the tokens", fixed, "money"),
            Figure("a million tokens, all in", price + fixed, "money"),
            Figure("inference overtakes training after", training_cost / price * 1e6, "tokens"),
        ]
    return Answer(
        f"{tokens_per_s:,.0f} tokens/s at {price_per_hour:g} an hour",
        figures,
        [
            "cost of 1M tokens = price per hour / 3600 / (tokens/s × load) × 1e6",
            "all in = that + training / tokens × 1e6",
        ],
        [f"load {load:.0%}: the device is paid for all the time and busy for that share of it"],
        ["tokens/s as given: measure it with `foundling serve` and its /metrics, or benchmarks/serving.py"],
    )


def estimated(model: Subject, where: Devices, batch: float, context: float, load: float) -> Answer:
    """Cost per million tokens from the device's limits, at several weight precisions: what compression changes."""
    rows_together, length = whole("batch", batch), whole("context", context)
    assert where.price is not None
    rows, figures = [], []
    for bits in BITS:
        speed = decode_speed(model, where, rows_together, length, bits)
        price = per_million(speed, where.price * where.count, load)
        size = cost.weight_bytes(model.shape(), bits / 8)
        fits = size + rows_together * cost.state_bytes(model.shape(), length) <= where.memory * where.count
        row = (f"{bits:g}", f"{size / 1e9:.3g} GB", f"{speed:,.0f}", f"{price:,.3f}", "yes" if fits else "no")
        rows.append(row)
        figures += [Figure(f"tokens/s at {bits:g} bits", speed, "tokens/s")]
        figures += [Figure(f"a million tokens at {bits:g} bits", price, "money")]
    return Answer(
        f"{model.name} on {where.count} × {where.name}, {rows_together} sequences of {human_count(length)}",
        figures,
        [
            "tokens/s = batch / max((weights + batch × cache) / (0.6 × bandwidth), batch × FLOPs / (0.5 × rate))",
            "cost of 1M tokens = price per hour / 3600 / (tokens/s × load) × 1e6",
        ],
        [
            f"decoding; {BANDWIDTH_SHARE:.0%} of bandwidth or {RATE_SHARE:.0%} of the rate is reached; load {load:.0%}",
            "the cache stays at 16 bits; 8- and 4-bit weights are widened on the fly, so they save bytes, not FLOPs",
        ],
        [where.source],
        table=(("weight bits", "weights", "tokens/s", "cost of 1M tokens", "fits"), rows),
    )
