"""FLOPs, and what they take: days, money and energy on hardware that may be named or measured.

FLOP is an amount of work, FLOP/s a speed, and a FLOP/s-day again an amount: what that speed does in a day (86,400 s).
"""

from __future__ import annotations

from dataclasses import dataclass

from foundling.core import hardware
from foundling.core.accelerators import ACCELERATORS, Accelerator, accelerator
from foundling.core.artifacts import Store
from foundling.core.units import human_flops
from foundling.planning.answer import DAY_S, HOUR_S, Answer, Figure, positive, share, whole
from foundling.planning.subject import Subject

THIS = "this"
PRECISION = "bf16"
GIVEN = "the given rate"  # in place of a precision
UTILISATION = 0.40
UTILISATION_SOURCE = (
    "utilisation 40% of peak where none is given: Llama 3 405B reached 38-43% on 8-16 thousand H100s "
    "(arXiv:2407.21783, table 4), PaLM 46% (arXiv:2204.02311)"
)
POWER_OVERHEAD = 1.2  # facility power over device power: a modern data centre's PUE


@dataclass(frozen=True)
class Devices:
    """Some devices of one kind, and what is paid for each.

    Attributes:
        rate: FLOP/s of one device at the precision that is used.
        price: for one device-hour, in any currency; None: unknown.
        this: whether it is the machine we are on.
    """

    name: str
    count: int
    rate: float
    watts: float
    memory: float
    bandwidth: float
    precision: str
    source: str
    price: float | None = None
    this: bool = False

    def seconds(self, flops: float, utilisation: float) -> float:
        """Wall time of that many FLOPs."""
        return flops / (self.count * self.rate * utilisation)

    def kilowatt_hours(self, seconds: float) -> float:
        """Energy at the boards' limit, with the facility's overhead."""
        return self.count * self.watts * POWER_OVERHEAD * seconds / 3.6e6


def devices(
    name: str,
    count: float,
    store: Store,
    *,
    precision: str = PRECISION,
    rate: float | None = None,
    price: float | None = None,
) -> Devices:
    """`count` devices: of a named kind, or "this" machine with its measured rates.

    Args:
        rate: FLOP/s of one device, in place of the table's.

    Raises:
        FoundlingError: unknown hardware or precision, no devices, a price or rate below zero.
    """
    number = whole("the number of devices", count)
    if price is not None:
        positive("the price per device-hour", price)
    this = name.lower() == THIS
    if this:
        known, precision = _this_machine(store), "bf16" if precision == "bf16" else "fp32"
    else:
        known = accelerator(name)
        precision = "fp16" if precision == "bf16" and "bf16" not in known.rates and "fp16" in known.rates else precision
        precision = "fp32" if precision == "bf16" and "bf16" not in known.rates else precision
    speed, source = known.rate(precision) if rate is None else positive("the rate", rate), known.source
    if rate is not None:
        precision, source = GIVEN, f"{source}; its rate as given"
    limits = known.watts, known.memory, known.bandwidth
    return Devices(known.name, number, speed, *limits, precision, source, price, this)


def _this_machine(store: Store) -> Accelerator:
    rates = hardware.remembered(store.root / "machine.json")
    watts = hardware.WATTS_PER_CORE * hardware.threads()
    speeds = {"fp32": rates.fp32, "bf16": rates.bf16}
    source = "measured here (`foundling doctor`)"
    return Accelerator(hardware.describe(), hardware.memory_bytes(), rates.bandwidth, speeds, watts, source)


def training_flops(model: Subject, tokens: float, context: int) -> float:
    """FLOPs of training on that many tokens: forward and backward, attention at the context length included."""
    return positive("the number of tokens", tokens) * model.flops_per_token(context, training=True)


def compute(flops: float, where: Devices, utilisation: float | None = None, also: Devices | None = None) -> Answer:
    """How long that many FLOPs take, and what they cost.

    Args:
        also: the same devices at another rate, shown beside (bf16 beside fp32, say).
    """
    positive("the number of FLOPs", flops)
    used = share("utilisation", utilisation if utilisation is not None else UTILISATION)
    peak, actual = where.seconds(flops, 1.0), where.seconds(flops, used)
    figures = [
        Figure("work", flops, "FLOP"),
        Figure("work in PFLOP/s-days", flops / (1e15 * DAY_S), ""),
        Figure("peak of one device", where.rate, "FLOP/s"),
        Figure("one device in a day at peak", where.rate * DAY_S, "FLOP/day"),
        Figure("time at peak", peak / DAY_S, "days"),
        Figure(f"time at {used:.0%} utilisation", actual / DAY_S, "days"),
        Figure("device-hours", where.count * actual / HOUR_S, "count"),
        Figure("energy", where.kilowatt_hours(actual), "kWh"),
    ]
    if where.price is not None:
        figures.append(Figure("cost", where.count * actual / HOUR_S * where.price, "money"))
    if also is not None:
        figures.append(
            Figure(f"time at {used:.0%} of {also.precision}'s peak", also.seconds(flops, used) / DAY_S, "days")
        )
    return Answer(
        f"{human_flops(flops)} on {where.count} × {where.name} at {where.precision}",
        figures,
        ["days = FLOP / (devices × FLOP/s × utilisation × 86,400)", "cost = devices × hours × price per device-hour"],
        _assumed(where, utilisation, also),
        [where.source],
    )


def _assumed(where: Devices, utilisation: float | None, also: Devices | None) -> list[str]:
    lines = [] if utilisation is not None else [UTILISATION_SOURCE]
    lines.append(f"energy: {where.watts:.0f} W a device all the time, times {POWER_OVERHEAD} for the facility (PUE)")
    if where.price is None:
        lines.append("no cost without a price: give --price per device-hour")
    if also is not None:
        rate = where.precision if where.precision == GIVEN else f"the {where.precision} rate"
        times = f"{also.rate / where.rate:.1f} times the speed on the same device"
        lines.append(f"{rate} leaves out the matrix units that {also.precision} uses: {times}")
    return lines


def units(amount: float, seconds_at: Devices) -> Answer:
    """An amount of work in all the units that get confused.

    Args:
        amount: FLOP.
    """
    positive("the amount", amount)
    rate = seconds_at.rate
    figures = [
        Figure("amount", amount, "FLOP"),
        Figure("in FLOP/s-days", amount / DAY_S, ""),
        Figure("in PFLOP/s-days", amount / (1e15 * DAY_S), ""),
        Figure("speed of one device", rate, "FLOP/s"),
        Figure("that speed for a day", rate * DAY_S, "FLOP"),
        Figure("time on one device at peak", amount / rate, "s"),
    ]
    return Answer(
        f"{human_flops(amount)}: an amount of work, not a speed",
        figures,
        ["1 FLOP/s-day = 1 FLOP/s × 86,400 s = 86,400 FLOP", "seconds = FLOP / (FLOP/s)"],
        [f"speed: {seconds_at.precision} peak of {seconds_at.name}"],
        [seconds_at.source],
    )


def peaks(store: Store) -> Answer:
    """The peak tables, and what was measured on this machine: beside its own row, where it has one."""
    rates = hardware.remembered(store.root / "machine.json")
    here = {"fp32": rates.fp32, "bf16": rates.bf16}
    rows = []
    for device in ACCELERATORS.values():
        speeds = [f"{device.rates[p] / 1e12:g}" if p in device.rates else "-" for p in ("fp32", "tf32", "bf16", "fp8")]
        speeds[2] = f"{device.rates['fp16'] / 1e12:g} (fp16)" if "fp16" in device.rates else speeds[2]
        sizes = f"{device.memory / 1e9:g}", f"{device.bandwidth / 1e9:,.0f}", f"{device.watts:g}"
        rows.append((device.name, *sizes, *speeds, device.source))
    figures = [
        Figure("bandwidth measured here", rates.bandwidth, "bytes/s"),
        Figure("fp32 matrix rate measured here", rates.fp32, "FLOP/s"),
        Figure("bf16 matrix rate measured here", rates.bf16, "FLOP/s"),
    ]
    known = next((a for a in ACCELERATORS.values() if a.name.upper() in rates.device.upper().split()), None)
    for precision in ("fp32", "bf16") if known else ():
        if known is not None and precision in known.rates:
            figures.append(
                Figure(f"of {known.name}'s {precision} peak", here[precision] / known.rates[precision], "share")
            )
    return Answer(
        f"Peaks, and this machine: {hardware.describe()}",
        figures,
        ["dense rates; the makers' figures with 2:4 sparsity are twice as high"],
        ["fp32 is the rate without matrix units; measured rates are the best of a few large products"],
        ["makers' documents, row by row"],
        [] if known else ["this machine has no row in the tables, so that nothing here checks them"],
        (("device", "GB", "GB/s", "W", "fp32 TFLOP/s", "tf32", "bf16", "fp8", "source"), rows),
    )
