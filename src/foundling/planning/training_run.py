"""A training run before it is run: what it takes on this machine or on named devices, and whether it fits at all."""

from __future__ import annotations

from foundling.core import hardware
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.units import human_count
from foundling.planning.answer import DAY_S, HOUR_S, Answer, Figure, positive, share, whole
from foundling.planning.compute import (
    POWER_OVERHEAD,
    THIS,
    UTILISATION,
    UTILISATION_SOURCE,
    Devices,
    devices,
    training_flops,
)
from foundling.planning.memory import USABLE, TrainingMemory, require_fit, training_memory
from foundling.planning.step_time import PROCESS_BYTES, STATES, planned_seconds
from foundling.planning.subject import Subject
from foundling.training.config import TrainingConfig


def plan_training(
    model: Subject,
    tokens: float,
    rows: tuple[float, float, float],
    where: tuple[str, float, str, float | None],
    optimizer: str,
    recompute: bool,
    utilisation: float | None,
    store: Store,
) -> Answer:
    """Time, FLOPs, memory by part, tokens, energy and cost of a training.

    Args:
        rows: rows in a step, rows in one forward pass of a device (0: its whole share), tokens in a row.
        where: hardware, number of devices, precision, price per device-hour.

    Raises:
        FoundlingError: nonsense, or it does not fit (saying what would).
    """
    name, count, precision, price = where
    used = devices(name, count, store, precision=precision, price=price)
    batch, context = whole("batch", rows[0]), whole("context", rows[2])
    micro = whole("micro_batch", rows[1]) if rows[1] else -(-batch // used.count)
    if optimizer not in STATES:
        raise FoundlingError(f"optimizer is {optimizer!r}", f"one of {', '.join(STATES)}", nearest(optimizer, STATES))
    flops = training_flops(model, tokens, context)
    need = training_memory(model, micro * context, optimizer=optimizer, checkpointed=recompute, shards=used.count)
    require_fit(model, need, used, micro * context, context, optimizer)
    steps = max(1, round(tokens / (batch * context)))
    here = name.lower() == THIS and model.config is not None and used.count == 1 and utilisation is None
    if here:
        seconds = _seconds_here(model, steps, batch, micro, context, optimizer, recompute, used.precision, store)
    else:
        seconds = used.seconds(flops, share("utilisation", utilisation or UTILISATION))
    return _answer(model, tokens, steps, flops, need, used, seconds, here, utilisation)


def _seconds_here(
    model: Subject,
    steps: int,
    batch: int,
    micro: int,
    context: int,
    optimizer: str,
    recompute: bool,
    precision: str,
    store: Store,
) -> float:
    config = TrainingConfig.model_validate(
        {
            "steps": steps,
            "batch_size": -(-batch // micro) * micro,
            "micro_batch": micro,
            "context": context,
            "optimizer": optimizer,
            "precision": precision,
            "recompute": "all" if recompute else "none",
        }
    )
    return planned_seconds(model.shape(), config, hardware.remembered(store.root / "machine.json"))


def _answer(
    model: Subject,
    tokens: float,
    steps: int,
    flops: float,
    need: TrainingMemory,
    used: Devices,
    seconds: float,
    here: bool,
    utilisation: float | None,
) -> Answer:
    n = positive("the number of tokens", tokens)
    figures = [
        Figure("parameters", model.parameters, "count"),
        Figure("steps", steps, "count"),
        Figure("tokens", n, "tokens"),
        Figure("tokens a parameter", n / model.parameters, ""),
        Figure("FLOPs", flops, "FLOP"),
        Figure("time", seconds, "s"),
        Figure("model FLOPs over the peak", flops / (seconds * used.rate * used.count), "share"),
        Figure("weights", need.weights, "bytes"),
        Figure("gradients", need.gradients, "bytes"),
        Figure("optimizer", need.optimizer, "bytes"),
        Figure("activations", need.activations, "bytes"),
        Figure("memory of one device", need.total + (PROCESS_BYTES if here else 0), "bytes"),
        Figure("of what it has", (need.total + (PROCESS_BYTES if here else 0)) / used.memory, "share"),
        Figure("energy", used.kilowatt_hours(seconds), "kWh"),
    ]
    if used.price is not None:
        figures.append(Figure("cost", used.count * seconds / HOUR_S * used.price, "money"))
    how = "time = steps × sum of parts, each at its measured limit × a fitted factor (docs/planning.md)"
    assumed = [
        *model.assumptions(),
        "weights, gradients and optimizer state in float32, shared by all devices (FSDP)",
        f"energy at {used.watts:.0f} W a device × {POWER_OVERHEAD} (PUE); {USABLE:.0%} of the memory is usable",
    ]
    if not here:
        how = "time = FLOPs / (devices × peak × utilisation)"
        assumed += [UTILISATION_SOURCE] if utilisation is None else [f"utilisation {utilisation:.0%}, as given"]
    if model.config is None:
        assumed.append("activations are left out: they depend on the architecture")
    if used.price is None:
        assumed.append("no cost without a price: give --price per device-hour")
    return Answer(
        f"Training {model.name} on {human_count(n)} tokens, on {used.count} × {used.name} at {used.precision}",
        figures,
        ["FLOPs = 3 × forward FLOPs a token (models/cost.py; 6N where only the size is known) × tokens", how],
        assumed,
        [used.source],
        [f"{seconds / DAY_S:.0f} days: plan checkpoints and failures too"] if seconds > 30 * DAY_S else [],
    )
