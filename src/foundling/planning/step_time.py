"""How long a training step takes and how much memory it needs, from the architecture and the machine's measured limits.

A step is priced as the sum of what it must do, each part at the machine's own measured rate for that kind of work:
narrow matrix products, element-wise work on activations, the softmax over the vocabulary, reading and writing weights,
and one launch for each part. The factors say how far from these rates each kind runs; they were fitted by
`benchmarks/planning.py calibrate`, on runs other than those that `benchmarks/planning.py` checks, with all processors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foundling.core.hardware import Rates, has_tiles
from foundling.models import cost
from foundling.models.config import AttentionConfig, FeedForwardConfig, MixerConfig, MLPConfig, ModelConfig
from foundling.training.config import PretrainConfig, TrainingConfig

MUON_STEPS = 5
STATES = {"adamw": 2, "muon": 1, "sgd": 1}  # float32 numbers kept for a weight; Muon leaves the embeddings to AdamW
CHUNK_LOGITS, LEAST_CHUNK = 1 << 21, 256  # `training/loss.py` holds no more logits at once
SCORED = {"masked_diffusion": 0.5, "prefix_lm": 0.5}  # share of the tokens that objectives score; others score all
LONGEST_SCORES = 512  # tokens of a row up to which a CPU keeps attention's weights (`models/layers/short_attention.py`)
TILE, LONGEST_IN_TILES = 32, 4096  # rows and heads that attention in tiles takes (`models/kernels/fused.py`)
MUON_IN_TILES = 0.43  # Newton-Schulz's products there, in the cache and half of the symmetric ones, beside torch's
KEPT_IN_BF16 = 5.0  # in bfloat16 such products are so much further from their rate than in float32
FUSED_KEYS = 3000  # what each token costs the fused kernel on a CPU, beside its keys, in keys
START_SECONDS, SAVE_RATE = 0.9, 500e6
KEPT = {"moe": 2.2, "mamba2": 3.7, "mamba": 2.0, "rwkv7": 4.5}  # times what `cost.py` counts is held in training
LAUNCHES = {"moe": 3, "mamba": 5}  # of parts that are many small operators; other parts count as one
PROCESS_BYTES = 365e6  # Python, torch and the libraries it loads
ALLOCATOR = 1.25  # memory of a backward pass over the activations kept for it: gradients of them, and holes


@dataclass(frozen=True)
class StepWork:
    """Seconds of one step's parts at the machine's limits.

    Attributes:
        products: matrix products of the blocks and the head, forward and backward.
        tiles: products of queries with keys and of weights with values, natively in a CPU's tiles.
        attention: the same products as torch's plain ones, where the weights are kept.
        fused: the same products by torch's fused kernel, which is slower on a CPU: long rows, attention both ways.
        passes: activations of attention, feed-forwards and norms, which native kernels go over once.
        traffic: those of the other parts, operator by operator.
        logits: the softmax over the vocabulary.
        optimizer: weights, gradients and states read and written.
        orthogonal: Muon's products.
        scan: the recurrent mixers' states, element by element.
        launches: number of parts run, over all micro-batches.
    """

    products: float
    tiles: float
    attention: float
    fused: float
    passes: float
    traffic: float
    logits: float
    optimizer: float
    orthogonal: float
    scan: float
    launches: float


FACTORS = StepWork(
    products=1.1,
    tiles=2.2,
    attention=1.6,
    fused=2.0,
    passes=5.4,
    traffic=7.0,
    logits=3.6,
    optimizer=1.1,
    orthogonal=2.2,
    scan=0.5,
    launches=3.5e-3,
)


def step_work(model: ModelConfig, config: TrainingConfig, rates: Rates) -> StepWork:
    """What one step of a training must do."""
    tokens = config.batch_size * config.context
    repeats = config.batch_size / _rows(config)
    rate = rates.small_matmul(config.precision)
    again = {"none": 3.0, "alternate": 3.5, "all": 4.0}[config.recompute]  # forward is one, backward two
    frozen = _frozen(config)
    spared = 1.0 if frozen else 0.0  # passes: the gradients of weights that only carry an adapter
    scored = scored_share(config)
    parts = cost.parts(model)
    weights = sum(part.matmul_weights for part in parts)
    keys = sum(part.flops_per_key * min(config.context, part.window or config.context) for part in parts)
    per_key = sum(part.flops_per_key for part in parts)
    mixers = [block.mixer for block in model.blocks if isinstance(block.mixer, AttentionConfig)]
    way = _way_of(mixers, config)
    kept_factor = 1.0 if config.precision == "fp32" else KEPT_IN_BF16
    kept = sum(part.activations for part in parts) + 4 * model.dim * len(model.blocks) + _more_kept(model)
    others = _of_others(model)
    products = (again - spared) * weights + (3 - spared) * scored * model.dim * model.vocab_size
    update = 2 * state_bytes(model, config.optimizer) + cost.n_parameters(model) * 4 * (3 + 2 * repeats)
    return StepWork(
        products=products * 2 * tokens / rate,
        tiles=again * keys * tokens / rate if way == "tiles" else 0.0,
        attention=kept_factor * again * keys * tokens / rate if way == "kept" else 0.0,
        fused=again * (keys + FUSED_KEYS * per_key) * tokens / rate if way == "fused" else 0.0,
        passes=(kept - others) * again / 3 * tokens / rates.elementwise,
        traffic=others * again / 3 * tokens / rates.elementwise,
        logits=scored * tokens * model.vocab_size / rates.softmax,
        optimizer=0.0 if frozen else update / rates.bandwidth,
        orthogonal=_muon_flops(model) / rate * _muon_share(config) if not frozen else 0.0,
        scan=sum(part.state_values for part in parts) * tokens * again / 3 / rates.elementwise,
        launches=repeats * (len(parts) + _more_launches(model)),
    )


def _frozen(config: TrainingConfig) -> bool:
    """Whether only an adapter or a head is trained: the model's weights then have no gradients and no state."""
    return getattr(config, "adapter", None) is not None or getattr(config, "freeze", False)


def kept_state(model: ModelConfig, config: TrainingConfig) -> float:
    """Bytes of the optimizer's float32 state in this training."""
    return 0.0 if _frozen(config) else state_bytes(model, config.optimizer)


def _rows(config: TrainingConfig) -> int:
    """Rows in one forward pass."""
    return min(config.micro_batch or config.batch_size, config.batch_size)


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


def _muon_share(config: TrainingConfig) -> float:
    """Of what torch's products would take for it."""
    in_tiles = config.precision != "fp32" and has_tiles()
    return 0.0 if config.optimizer != "muon" else MUON_IN_TILES if in_tiles else 1.0


def planned_seconds(model: ModelConfig, config: TrainingConfig, rates: Rates) -> float:
    """Wall time of a whole training: its steps, the dry run, building the model and the last checkpoint."""
    saved = (cost.weight_bytes(model, 4) + kept_state(model, config)) / SAVE_RATE
    return START_SECONDS + saved + (config.steps + 1) * step_seconds(model, config, rates)


def state_bytes(model: ModelConfig, optimizer: str) -> float:
    """Bytes of the optimizer's float32 state."""
    tables = cost.n_parameters(model) - cost.n_parameters(model, embeddings=False) if optimizer == "muon" else 0
    return cost.optimizer_bytes(model, STATES[optimizer]) + 4.0 * tables


def logit_tokens(model: ModelConfig, tokens: int) -> int:
    """Tokens whose logits are held at once."""
    return min(tokens, max(LEAST_CHUNK, CHUNK_LOGITS // model.vocab_size))


def planned_memory(model: ModelConfig, config: TrainingConfig) -> float:
    """Resident peak of a process that trains on a CPU, in bytes.

    It is reached in a backward pass: activations, gradients, and those of the head, which are summed chunk by chunk.
    """
    width = 2 if config.precision != "fp32" else 4
    tokens = _rows(config) * config.context
    held = cost.weight_bytes(model, 4) + kept_state(model, config)
    held += cost.weight_bytes(model, 2) if config.precision != "fp32" else 0
    recompute = config.recompute == "all"
    kept = cost.activation_bytes(model, tokens, width, checkpointed=recompute, logit_tokens=logit_tokens(model, tokens))
    kept += _scores(model, config, recompute) * tokens * width
    kept += logit_tokens(model, tokens) * model.vocab_size * width  # the logits' gradient
    kept += _more_kept(model) / (len(model.blocks) if recompute else 1) * tokens * width
    if recompute:  # beside the block that is recomputed, its gradients, and what the allocator kept of the last one's
        kept += 2 * sum(part.activations for part in cost.parts(model)) / len(model.blocks) * tokens * width
    gradients = cost.weight_bytes(model, 4) + 3 * 4.0 * model.vocab_size * model.dim
    return PROCESS_BYTES + held + (0.0 if _frozen(config) else gradients) + ALLOCATOR * kept


def _more_kept(model: ModelConfig) -> float:
    """Numbers per token that parts hold in training beyond those that `cost.py` counts; native passes hold fewer."""
    more = 0.0
    for part in _part_configs(model):
        if part.kind in KEPT:
            more += (KEPT[part.kind] - 1) * cost.PARTS[part.kind](part, model.dim).activations
        elif isinstance(part, MLPConfig) and part.gated and part.activation == "silu":
            more -= part.hidden  # silu(gate) is not kept
        elif isinstance(part, AttentionConfig) and part.rope is not None and part.head_dim % TILE == 0:
            more -= (part.n_heads + part.n_kv_heads) * part.head_dim  # nor are queries and keys before their rotation
    return more


def _part_configs(model: ModelConfig) -> list[MixerConfig | FeedForwardConfig]:
    return [part for block in model.blocks for part in (block.mixer, block.ffn) if part]


def _more_launches(model: ModelConfig) -> int:
    return sum(LAUNCHES.get(part.kind, 1) - 1 for part in _part_configs(model))


def _of_others(model: ModelConfig) -> float:
    """Numbers per token that parts without native passes hold in training."""
    others = [part for part in _part_configs(model) if not isinstance(part, AttentionConfig | MLPConfig)]
    return sum(KEPT.get(p.kind, 1.0) * cost.PARTS[p.kind](p, model.dim).activations for p in others)


def _way_of(mixers: list[AttentionConfig], config: TrainingConfig) -> Literal["tiles", "kept", "fused"]:
    """How a CPU computes the attention of a training (`models/layers/attention.py`)."""
    plain = bool(mixers) and all(m.softcap is None and not m.alibi and not m.relative_bias for m in mixers)
    sizes = (config.context, *(m.head_dim for m in mixers))
    in_tiles = plain and config.precision == "bf16" and not any(size % TILE for size in sizes)
    if in_tiles and config.context <= LONGEST_IN_TILES and has_tiles():
        return "tiles"
    short = config.context <= LONGEST_SCORES and all(m.causal and m.softcap is None for m in mixers)
    return "kept" if short else "fused"


def _scores(model: ModelConfig, config: TrainingConfig, recompute: bool) -> float:
    """Attention's weights kept per token; when blocks are recomputed, those of one block."""
    mixers = [block.mixer for block in model.blocks if isinstance(block.mixer, AttentionConfig)]
    if not mixers or _way_of(mixers, config) != "kept":
        return 0.0
    heads = [mixer.n_heads for mixer in mixers]
    return float((max(heads) if recompute else sum(heads)) * config.context)
