"""How long a training step takes and how much memory it needs, from the architecture and the machine's measured limits.

A step is priced as the sum of what it must do, each part at the machine's own measured rate for that kind of work:
narrow matrix products, element-wise work on activations, the softmax over the vocabulary, reading and writing weights,
and one launch for each part. The factors say how far from these rates each kind runs; they were fitted by
`benchmarks/planning.py calibrate`, on runs other than those that `benchmarks/planning.py` checks.
"""

from __future__ import annotations

from dataclasses import dataclass

from foundling.core.hardware import Rates
from foundling.models import cost
from foundling.models.config import ModelConfig
from foundling.training.config import PretrainConfig, TrainingConfig

MUON_STEPS = 5
START_SECONDS, DISK_RATE, PROCESS_BYTES = 0.3, 500e6, 500e6
CHUNK_LOGITS = 1 << 21  # as `training.loss` computes them: logits are never held for all tokens
SCORED = {"masked_diffusion": 0.5, "prefix_lm": 0.5}  # share of the tokens that objectives score; others score all


@dataclass(frozen=True)
class StepWork:
    """Seconds of one step's parts at the machine's limits.

    Attributes:
        products: matrix products of the blocks and the head, forward and backward.
        attention: products of queries with keys and of weights with values.
        traffic: activations, element by element.
        logits: the softmax over the vocabulary.
        optimizer: weights, gradients and states read and written.
        orthogonal: Muon's products.
        scan: the recurrent mixers' states, element by element.
        launches: number of parts run, over all micro-batches.
    """

    products: float
    attention: float
    traffic: float
    logits: float
    optimizer: float
    orthogonal: float
    scan: float
    launches: float


FACTORS = StepWork(1.5, 2.0, 3.0, 2.0, 2.0, 1.0, 2.0, 3e-3)


def step_work(model: ModelConfig, config: TrainingConfig, rates: Rates) -> StepWork:
    """What one step of a training must do."""
    tokens = config.batch_size * config.context
    passes = config.batch_size / (config.micro_batch or config.batch_size)
    rate = rates.small_matmul(config.precision)
    again = {"none": 3.0, "alternate": 3.5, "all": 4.0}[config.recompute]  # forward is one, backward two
    scored = scored_share(config)
    parts = cost.parts(model)
    weights = sum(part.matmul_weights for part in parts)
    keys = sum(part.flops_per_key * min(config.context, part.window or config.context) for part in parts)
    kept = sum(part.activations for part in parts) + 4 * model.dim * len(model.blocks)
    n = cost.n_parameters(model)
    states = 4.0 if config.optimizer == "adamw" else 3.0
    return StepWork(
        products=(again * weights + 3 * scored * model.dim * model.vocab_size) * 2 * tokens / rate,
        attention=again * keys * tokens / rate,
        traffic=kept * again / 3 * tokens / rates.elementwise,
        logits=scored * tokens * model.vocab_size / rates.softmax,
        optimizer=n * 4 * (2 * states + 2 * passes) / rates.bandwidth,
        orthogonal=_muon_flops(model) / rate if config.optimizer == "muon" else 0.0,
        scan=sum(part.state_values for part in parts) * tokens * again / 3 / rates.elementwise,
        launches=passes * len(parts),
    )


def scored_share(config: TrainingConfig) -> float:
    """Share of the tokens to which the head is applied."""
    if not isinstance(config, PretrainConfig):
        return 1.0
    return config.mask_rate if config.objective == "masked" else SCORED.get(config.objective, 1.0)


def step_seconds(model: ModelConfig, config: TrainingConfig, rates: Rates) -> float:
    """Seconds of one step."""
    work, factors = vars(step_work(model, config, rates)), vars(FACTORS)
    return float(sum(work[name] * factors[name] for name in work))


def _muon_flops(model: ModelConfig) -> float:
    """Newton-Schulz on matrices of about the model's width: 5 × (4 m² n + 2 m³) with m the smaller side."""
    weights = cost.n_parameters(model, embeddings=False)
    return MUON_STEPS * 6.0 * model.dim * weights


def planned_seconds(model: ModelConfig, config: TrainingConfig, rates: Rates) -> float:
    """Wall time of a whole training: its steps, the dry run, building the model and the last checkpoint."""
    saved = 2 * cost.n_parameters(model) * 4 * 3 / DISK_RATE
    return START_SECONDS + (config.steps + 1) * step_seconds(model, config, rates) + saved


def planned_memory(model: ModelConfig, config: TrainingConfig) -> float:
    """Resident peak of the process that trains, in bytes."""
    return PROCESS_BYTES + cost.training_bytes(model, (config.micro_batch or config.batch_size) * config.context)
