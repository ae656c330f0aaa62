"""A training run before it is run: what it takes on this machine or on named devices, and whether it fits at all."""

from __future__ import annotations

from foundling.core import hardware
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.units import human_count
from foundling.planning.answer import DAY_S, HOUR_S, Answer, Figure, positive, share
from foundling.planning.compute import (
    POWER_OVERHEAD,
    UTILISATION,
    UTILISATION_SOURCE,
    Devices,
    training_flops,
)
from foundling.planning.memory import USABLE, TrainingMemory, require_fit, training_memory
from foundling.planning.step_time import PROCESS_BYTES, planned_seconds
from foundling.planning.subject import Subject
from foundling.training.config import TrainingConfig


def plan_training(
    model: Subject, tokens: float, config: TrainingConfig, where: Devices, utilisation: float | None, store: Store
) -> Answer:
    """Time, FLOPs, memory by part, tokens, energy and cost of a training.

    Args:
        config: rows, context, optimizer; its steps are not looked at. Rows in one pass: its micro_batch, or a device's
            whole share.
        utilisation: share of the peak that is reached; None: what is measured here, or what is usual elsewhere.

    Raises:
        FoundlingError: nonsense, or it does not fit (saying what would).
    """
    if config.batch_size < where.count:
        what = f"a batch of {config.batch_size} rows is too small for {where.count} devices"
        raise FoundlingError(what, "each takes at least one", f"Set --batch {where.count} or more")
    own = -(-config.batch_size // where.count)
    micro = min(config.micro_batch or own, own)
    flops = training_flops(model, tokens, config.context)
    need = training_memory(
        model,
        micro * config.context,
        optimizer=config.optimizer,
        checkpointed=config.recompute == "all",
        shards=where.count,
    )
    require_fit(model, need, where, micro * config.context, config.context, config.optimizer)
    steps = max(1, round(tokens / (config.batch_size * config.context)))
    here = where.this and model.config is not None and where.count == 1 and utilisation is None
    if here:
        asked = config.model_copy(update={"steps": steps})
        seconds = planned_seconds(model.shape(), asked, hardware.remembered(store.root / "machine.json"))
    else:
        seconds = where.seconds(flops, share("utilisation", utilisation or UTILISATION))
    return _answer(model, tokens, steps, flops, need, where, seconds, here, utilisation)


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
