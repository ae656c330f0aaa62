"""What accelerators can do at most, from their makers' own tables: dense rates, never those with 2:4 sparsity.

Rates are FLOP/s (multiply and add count as two), bandwidth and memory in bytes, watts the board's limit. `fp32` is the
rate without tensor cores. Real matrix products reach 60-90% of the bf16 rate: `foundling doctor` measures yours.
"""

from __future__ import annotations

from dataclasses import dataclass

from foundling.core.errors import FoundlingError, nearest

T, GB = 1e12, 1e9


@dataclass(frozen=True)
class Accelerator:
    """One device's limits.

    Attributes:
        rates: FLOP/s by precision: fp32, tf32, bf16, fp8 (dense).
        watts: the maker's board limit; of the whole computer for Apple's, whose chips have none published.
        source: the maker's document.
    """

    name: str
    memory: float
    bandwidth: float
    rates: dict[str, float]
    watts: float
    source: str

    def rate(self, precision: str) -> float:
        """Dense FLOP/s at a precision.

        Raises:
            FoundlingError: the device has no such rate.
        """
        if precision not in self.rates:
            has = ", ".join(self.rates)
            raise FoundlingError(
                f"{self.name} has no {precision!r} rate", f"it has {has}", nearest(precision, self.rates)
            )
        return self.rates[precision]


def _device(
    name: str, memory: float, bandwidth: float, watts: float, source: str, **rates: float
) -> tuple[str, Accelerator]:
    """Units of the tables: GB, GB/s, W, TFLOP/s."""
    teraflops = {precision: value * T for precision, value in rates.items()}
    return name, Accelerator(name, memory * GB, bandwidth * GB, teraflops, watts, source)


_AMPERE = "NVIDIA A100 datasheet, June 2021"
_HOPPER = "NVIDIA H100 datasheet, 2023"
_ADA = "NVIDIA Ada GPU architecture whitepaper v2.1, appendix A (FP32 accumulation)"
_AMD = "AMD Instinct MI300X data sheet, 2023"
_NEWS = "Apple newsroom"
_POWER = "Apple support, Mac power consumption and thermal output"

ACCELERATORS: dict[str, Accelerator] = dict(
    (
        _device("v100", 32, 900, 300, "NVIDIA V100 datasheet, 2020 (16-bit is fp16)", fp32=15.7, fp16=125),
        _device("t4", 16, 320, 70, "NVIDIA T4 datasheet, 2019 (16-bit is fp16)", fp32=8.1, fp16=65),
        _device("a100-40gb", 40, 1555, 400, _AMPERE, fp32=19.5, tf32=156, bf16=312),
        _device("a100", 80, 2039, 400, _AMPERE, fp32=19.5, tf32=156, bf16=312),
        _device("h100-pcie", 80, 2000, 350, _HOPPER, fp32=51, tf32=378, bf16=756, fp8=1513),
        _device("h100", 80, 3350, 700, _HOPPER, fp32=67, tf32=494.5, bf16=989.4, fp8=1978.9),
        _device("h200", 141, 4800, 700, "NVIDIA H200 datasheet, 2024", fp32=67, tf32=494.5, bf16=989.4, fp8=1978.9),
        _device("b200", 192, 8000, 1000, "NVIDIA Blackwell brief, 2024", fp32=80, tf32=1100, bf16=2250, fp8=4500),
        _device("l4", 24, 300, 72, "NVIDIA L4 datasheet, 2023", fp32=30.3, tf32=60, bf16=121, fp8=242.5),
        _device("l40s", 48, 864, 350, "NVIDIA L40S datasheet, 2023", fp32=91.6, tf32=183, bf16=362.05, fp8=733),
        _device("3090", 24, 936, 350, "NVIDIA GA102 whitepaper v2", fp32=35.6, tf32=35.6, bf16=71),
        _device("4090", 24, 1008, 450, _ADA, fp32=82.6, tf32=82.6, bf16=165.2, fp8=330.3),
        _device("mi300x", 192, 5300, 750, _AMD, fp32=163.4, tf32=653.7, bf16=1307.4, fp8=2614.9),
        _device("m1", 16, 68, 39, f"{_NEWS}, Nov 2020; {_POWER} (Mac mini)", fp32=2.6),
        _device("m1-max", 64, 400, 115, f"{_NEWS}, Oct 2021; {_POWER} (Mac Studio)", fp32=10.4),
        _device("m1-ultra", 128, 800, 215, f"{_NEWS}, Mar 2022; {_POWER} (Mac Studio)", fp32=21.0),
        _device("m2", 24, 100, 50, f"{_NEWS}, Jun 2022; {_POWER} (Mac mini)", fp32=3.6),
    )
)


def accelerator(name: str) -> Accelerator:
    """The device of that name ("H100", "rtx-4090"), whatever its case.

    Raises:
        FoundlingError: an unknown device, with the nearest one.
    """
    key = name.lower().strip().replace("_", "-").replace(" ", "-").removeprefix("nvidia-").removeprefix("rtx-")
    if key not in ACCELERATORS:
        known = f"known: this (the machine you are on), {', '.join(ACCELERATORS)}"
        raise FoundlingError(f"no hardware named {name!r}", known, nearest(key, ACCELERATORS))
    return ACCELERATORS[key]
