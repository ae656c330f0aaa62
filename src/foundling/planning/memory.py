"""Bytes: of weights at any precision, sparse ones, experts, the cache, and all parts of a training step."""

from __future__ import annotations

from dataclasses import dataclass

from foundling.core.accelerators import ACCELERATORS
from foundling.core.errors import FoundlingError
from foundling.core.units import human_bytes
from foundling.models import cost
from foundling.planning.answer import Answer, Figure, positive, whole
from foundling.planning.compute import Devices
from foundling.planning.step_time import STATES, logit_tokens, state_bytes
from foundling.planning.subject import Subject

SERVING_OVERHEAD = 1.2  # activations, cache and buffers over the weights, as a rule of thumb
RULE_SOURCE = "the textbooks' rule: weights × 1.2 for inference; × 2 more states and a gradient for training (AdamW)"
USABLE = 0.92  # of a device's memory: the rest goes to the runtime, fragments and communication buffers


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one device's parts in a training step."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    model: Subject,
    tokens: int,
    *,
    optimizer: str = "adamw",
    checkpointed: bool = False,
    shards: int = 1,
) -> TrainingMemory:
    """One device's memory in a training step, by part. Weights, gradients and states are kept in float32.

    Args:
        tokens: of one micro-batch on one device.
        shards: devices that share the weights, gradients and optimizer state (FSDP).
    """
    weights = model.parameters * 4.0 / shards
    if model.config is None:
        return TrainingMemory(weights, weights, weights * STATES[optimizer], 0.0)
    held = logit_tokens(model.config, tokens)
    kept = cost.activation_bytes(model.config, tokens, checkpointed=checkpointed, logit_tokens=held)
    return TrainingMemory(weights, weights, state_bytes(model.config, optimizer) / shards, kept)


def weights(model: Subject, bits: float = 16, sparsity: float = 0.0) -> Answer:
    """Memory of a model's weights, for inference and as a rule for training."""
    width = positive("bits", bits) / 8
    if not 0 <= sparsity < 1:
        raise FoundlingError(f"sparsity is {sparsity:g}", "a share from 0 up to, not including, 1 was expected")
    n = model.parameters
    dense = cost.weight_bytes(model.config, width) if model.config else n * width
    figures = [
        Figure("parameters", n, "count"),
        Figure("active in one token", model.active, "count"),
        Figure(f"weights at {bits:g} bits", dense, "bytes"),
        *(Figure(f"weights at {other} bits", n * other / 8, "bytes") for other in (32, 4) if other != bits),
        Figure("to serve, by the rule", SERVING_OVERHEAD * dense, "bytes"),
        Figure("gradients and two states, all at these bits", 3 * dense, "bytes"),
    ]
    formulas = [
        "bytes = parameters × bits / 8",
        "serving ≈ weights × 1.2",
        "gradients + AdamW = parameters × 3 × bits / 8",
    ]
    assumed = [
        *model.assumptions(),
        "1 GB = 1e9 bytes; scales of quantized weights are left out",
        "a cache and activations are extra: `plan cache`, `plan train`",
    ]
    if sparsity:
        left = n * (1 - sparsity)
        figures += [
            Figure("weights that are not zero", left, "count"),
            Figure("their values alone", left * width, "bytes"),
            Figure("values and a bitmap of where they are", left * width + n / 8, "bytes"),
        ]
        formulas.append("not zero = parameters × (1 - sparsity); bitmap = parameters / 8 bytes")
        assumed.append("zeros save memory only in a sparse format, and time only with kernels that skip them")
    return Answer(f"Memory of {model.name}", figures, formulas, assumed, [RULE_SOURCE])


def cache(model: Subject, context: float, batch: float = 1, bits: float = 16) -> Answer:
    """Memory of keys, values and recurrent state for some sequences."""
    shape = model.shape()
    length, rows, width = whole("context", context), whole("batch", batch), positive("bits", bits) / 8
    one = cost.state_bytes(shape, length, width)
    figures = [
        Figure("one more token of one sequence", cost.kv_bytes_per_token(shape, width), "bytes"),
        Figure(f"one sequence of {length} tokens", one, "bytes"),
        Figure(f"{rows} sequences", rows * one, "bytes"),
        Figure(f"weights at {bits:g} bits, beside it", cost.weight_bytes(shape, width), "bytes"),
    ]
    return Answer(
        f"Cache of {model.name}",
        figures,
        ["cache = 2 × layers × key/value heads × head width × bytes × context × batch", "a window or a state caps it"],
        [*model.assumptions(), "no sharing of prefixes, no paging waste"],
    )


def experts(model: Subject, context: int = 4096) -> Answer:
    """A mixture of experts: what is stored against what a token uses."""
    shape = model.shape()
    figures = [
        Figure("total parameters (memory)", model.parameters, "count"),
        Figure("active parameters (time)", model.active, "count"),
        Figure("share that is active", model.active / model.parameters, "share"),
        Figure("weights at 16 bits", cost.weight_bytes(shape), "bytes"),
        Figure(f"forward FLOPs a token at {context}", cost.flops_per_token(shape, context), "FLOP"),
        Figure("a dense model of as many parameters", 2.0 * model.parameters, "FLOP"),
    ]
    return Answer(
        f"Experts of {model.name}",
        figures,
        ["memory follows the total, time a token follows the active parameters: about 2 FLOP for each"],
        [*model.assumptions(), "in a large batch every expert is used, so all weights are read"],
        warnings=[] if model.active < model.parameters else [f"{model.name} has no experts: a token uses all of it"],
    )


def require_fit(model: Subject, need: TrainingMemory, used: Devices, tokens: int, context: int, optimizer: str) -> None:
    """Refuse a training step that does not fit on its device, and say what would.

    Args:
        tokens: of one micro-batch.
        context: tokens of the smallest one, a single row.

    Raises:
        FoundlingError: with the parts, and the nearest settings that fit.
    """
    have = USABLE * used.memory
    if need.total <= have:
        return

    def fits(rows: int, shards: int) -> bool:
        small = training_memory(model, rows, optimizer=optimizer, checkpointed=True, shards=shards)
        return small.total <= have

    options = []
    if fits(tokens, used.count):
        options.append("--recompute")
    elif fits(context, used.count):
        options.append("--recompute with --micro-batch 1")
    enough = next((n for n in (2**k for k in range(14)) if n > used.count and fits(context, n)), None)
    options += [f"--devices {enough} with --recompute and --micro-batch 1"] if enough else []
    larger = [a for a in ACCELERATORS.values() if USABLE * a.memory >= need.total and "bf16" in a.rates]
    larger.sort(key=lambda a: a.memory)
    options += [f"--hardware {larger[0].name}"] if larger else []
    parts = f"weights {human_bytes(need.weights)}, gradients {human_bytes(need.gradients)}, optimizer "
    parts += f"{human_bytes(need.optimizer)}, activations {human_bytes(need.activations)}"
    what = f"training {model.name} needs {human_bytes(need.total)} on each device ({parts})"
    why = f"{used.name} has {human_bytes(used.memory)}, of which {USABLE:.0%} can be used"
    raise FoundlingError(what, why, f"What would fit: {'; '.join(options)}" if options else "Plan a smaller model")
