"""`foundling plan`: questions of size, time and memory."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from foundling.cli.lives import StorePath
from foundling.cli.planning_answers import (
    Count,
    Hardware,
    OptionalCount,
    Precision,
    Price,
    Speed,
    Utilisation,
    model_named,
)
from foundling.core.artifacts import Store
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.planning.answer import Answer


def memory(model: str, *, bits: float = 16, sparsity: float = 0.0, store: StorePath = None) -> Answer:
    """Memory of a model's weights at a precision, dense or sparse.

    Args:
        model: a preset, a size such as 7B, a directory or life/stage.
        bits: of one weight.
        sparsity: share of the weights that are zero.
    """
    from foundling.planning import memory as bytes_of

    return bytes_of.weights(model_named(model, store), bits, sparsity)


def cache(
    model: str,
    *,
    context: Count = 4096,
    batch: Count = 1,
    bits: float = 16,
    store: StorePath = None,
) -> Answer:
    """Memory of the key-value cache (and of any recurrent state).

    Args:
        context: tokens in a sequence.
        batch: sequences together.
        bits: of one cached number.
    """
    from foundling.planning import memory as bytes_of

    return bytes_of.cache(model_named(model, store), context, batch, bits)


def experts(model: str, *, context: Count = 4096, store: StorePath = None) -> Answer:
    """A mixture of experts: total parameters (memory) against active ones (time)."""
    from foundling.planning import memory as bytes_of

    return bytes_of.experts(model_named(model, store), int(context))


def compute(
    flops: OptionalCount = None,
    *,
    model: str | None = None,
    tokens: OptionalCount = None,
    context: Count = 2048,
    hardware: Hardware = "h100",
    devices: Count = 1,
    precision: Precision = "bf16",
    rate: Speed = None,
    utilisation: Utilisation = None,
    price: Price = None,
    store: StorePath = None,
) -> Answer:
    """Days, money and energy of an amount of FLOPs, or of training a model on some tokens.

    Args:
        flops: the amount of work; or give --model and --tokens.
        context: tokens in a row, which attention's FLOPs depend on.
        devices: how many.
    """
    from foundling.planning import compute as work

    home = Store(store)
    if flops is not None and (model is not None or tokens is not None):
        raise FoundlingError("both an amount of FLOPs and --model or --tokens are given", "one of them was expected")
    if flops is None:
        if model is None or tokens is None:
            raise FoundlingError(
                "there is nothing to compute", "an amount of FLOPs, or --model and --tokens, was expected"
            )
        flops = work.training_flops(model_named(model, store), tokens, int(context))
    where = work.devices(hardware, devices, home, precision=precision, rate=rate, price=price)
    other = rate is not None or where.precision == "fp32"
    beside = work.devices(hardware, devices, home, price=price) if other and hardware != work.THIS else None
    return work.compute(flops, where, utilisation, beside if beside and beside.rate != where.rate else None)


def units(
    flops: Count,
    *,
    hardware: Hardware = "h100",
    precision: Precision = "bf16",
    rate: Speed = None,
    store: StorePath = None,
) -> Answer:
    """FLOP, FLOP/s and FLOP/s-days: one amount of work in every unit."""
    from foundling.planning import compute as work

    return work.units(flops, work.devices(hardware, 1, Store(store), precision=precision, rate=rate))


def train(
    model: str,
    *,
    tokens: Count,
    batch: Count = 16,
    micro_batch: Count = 0,
    context: Count = 256,
    hardware: Hardware = "this",
    devices: Count = 1,
    precision: Precision = "bf16",
    optimizer: str = "muon",
    recompute: Annotated[bool, Parameter(negative="")] = False,
    utilisation: Utilisation = None,
    price: Price = None,
    store: StorePath = None,
) -> Answer:
    """A training run before it is run: time, FLOPs, memory by part, energy, cost; refused if it cannot fit.

    Args:
        tokens: to train on.
        batch: rows in one step, over all devices.
        micro_batch: rows in one forward pass of a device; 0: the device's whole share.
        context: tokens in a row.
        devices: how many; they share the weights (FSDP).
        optimizer: muon, adamw or sgd.
        recompute: keep only the blocks' inputs for the backward pass.
    """
    from foundling.planning import compute as work
    from foundling.planning.training_run import plan_training
    from foundling.training.config import TrainingConfig

    home = Store(store)
    where = work.devices(hardware, devices, home, precision=precision, price=price)
    asked = {"batch_size": batch, "micro_batch": micro_batch, "context": context, "optimizer": optimizer}
    asked |= {"recompute": "all" if recompute else "none", "precision": "fp32" if where.precision == "fp32" else "bf16"}
    config = parse(TrainingConfig, asked, "plan train")
    return plan_training(model_named(model, store), tokens, config, where, utilisation, home)


def hardware(*, store: StorePath = None) -> Answer:
    """The peak tables with their sources, and what was measured here beside them."""
    from foundling.planning.compute import peaks

    return peaks(Store(store))


def actual(life: str | None = None, *, store: StorePath = None) -> Answer:
    """Plan against actual, for every stage of a life that was run (default: the newest)."""
    from foundling.planning.actual import actual as beside

    return beside(Store(store), life)
