"""What a model costs: parameters, FLOPs, cache bytes, training memory; from its config alone, without torch.

A FLOP is one multiply or one add, counted over matrix products only (as `torch.utils.flop_counter` and the literature
do): a matrix of n weights costs 2n per token forward, and the backward pass twice as much (Kaplan et al. 2020,
arXiv:2001.08361, appendix B). Attention over a context of c tokens adds 4 * c * heads * head_dim per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig
from foundling.models.layers.recurrent_cost import COSTS as RECURRENT_COSTS

FP32_BYTES = 4


@dataclass(frozen=True)
class PartCost:
    """What one mixer or feed-forward costs, per token where it says so."""

    parameters: int
    active: int  # parameters a single token uses
    matmul_weights: int  # weights a token is multiplied by: 2 FLOPs each
    flops_per_key: float = 0.0  # FLOPs per token for each token it attends to
    window: int | None = None  # at most this many keys
    cache_values: int = 0  # numbers cached per token of context
    state_values: int = 0  # numbers kept per sequence, whatever its length
    activations: int = 0  # numbers kept per token for the backward pass


def norm_parameters(norm: NormConfig, dim: int) -> int:
    """Weights of one norm."""
    return dim * (2 if norm.bias else 1)


def _attention(config: AttentionConfig, dim: int) -> PartCost:
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    weights = dim * (q + 2 * kv) + q * dim
    extra = (q + 2 * kv if config.qkv_bias else 0) + (dim if config.out_bias else 0)
    extra += 2 * norm_parameters(config.qk_norm, config.head_dim) if config.qk_norm else 0
    return PartCost(
        parameters=weights + extra,
        active=weights + extra,
        matmul_weights=weights,
        flops_per_key=4.0 * q,
        window=config.window,
        cache_values=2 * kv,
        # input, q k v before and after their norms and rotation, attention's output
        activations=dim + (q + kv) * (3 if config.qk_norm else 2) + kv + q,
    )


def _mlp(config: MLPConfig, dim: int) -> PartCost:
    matrices = 3 if config.gated else 2
    weights = matrices * dim * config.hidden
    bias = (config.hidden * (matrices - 1) + dim) if config.bias else 0
    # input, both projections, the activation and the product
    activations = dim + config.hidden * (4 if config.gated else 2)
    return PartCost(weights + bias, weights + bias, weights, activations=activations)


def _moe(config: MoEConfig, dim: int) -> PartCost:
    expert, shared, router = 3 * dim * config.hidden, 3 * dim * (config.shared_hidden or 0), dim * config.n_experts
    active = router + shared + config.top_k * expert
    inner = config.top_k * config.hidden + (config.shared_hidden or 0)
    total = router + shared + config.n_experts * expert
    return PartCost(total, active, active, activations=dim * (1 + config.top_k) + config.n_experts + 4 * inner)


def _recurrent(config: Any, dim: int) -> PartCost:
    return PartCost(**RECURRENT_COSTS[config.kind](config, dim))


PARTS: dict[str, Callable[[Any, int], PartCost]] = {"attention": _attention, "mlp": _mlp, "moe": _moe}
PARTS |= dict.fromkeys(RECURRENT_COSTS, _recurrent)


def parts(config: ModelConfig) -> list[PartCost]:
    """The cost of every mixer and feed-forward of the stack."""
    configs = [part for block in config.blocks for part in (block.mixer, block.ffn) if part is not None]
    return [PARTS[part.kind](part, config.dim) for part in configs]


def n_parameters(config: ModelConfig, *, active: bool = False, embeddings: bool = True) -> int:
    """Number of weights; `active`: only those a single token uses; without `embeddings`: neither table nor head."""
    blocks = sum(part.active if active else part.parameters for part in parts(config))
    n_norms = sum(2 if block.ffn else 1 for block in config.blocks) + 1
    total = blocks + n_norms * norm_parameters(config.norm, config.dim)
    total += norm_parameters(config.norm, config.dim) if config.embedding.norm else 0
    tables = 1 if config.tie_embeddings else 2
    return total + (tables * config.vocab_size * config.dim if embeddings else 0)


def flops_per_token(config: ModelConfig, context: int, *, training: bool = False) -> float:
    """Matrix FLOPs per token that attends to `context` tokens; training is three times forward.

    The half that a causal mask skips is counted too, as in PaLM's MFU (arXiv:2204.02311, appendix B).
    """
    forward = 2.0 * config.vocab_size * config.dim
    for part in parts(config):
        forward += 2.0 * part.matmul_weights + part.flops_per_key * min(context, part.window or context)
    return 3 * forward if training else forward


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: float = 2) -> float:
    """Bytes the cache grows by per token of a sequence."""
    return sum(part.cache_values for part in parts(config)) * bytes_per_value


def state_bytes(config: ModelConfig, context: int, bytes_per_value: float = 2) -> float:
    """Bytes kept for one sequence of `context` tokens: its keys and values, and any recurrent state."""
    cached = sum(part.cache_values * min(context, part.window or context) for part in parts(config))
    return (cached + sum(part.state_values for part in parts(config))) * bytes_per_value


def weight_bytes(config: ModelConfig, bytes_per_value: float = 2) -> float:
    """Bytes of the weights at a precision (2 for bfloat16, 4 for float32, 0.5 for int4 without scales)."""
    return n_parameters(config) * bytes_per_value


def optimizer_bytes(config: ModelConfig, states: int = 2) -> float:
    """Bytes of float32 optimizer state: two numbers per weight for AdamW, one for Muon or momentum."""
    return n_parameters(config) * states * FP32_BYTES


def activation_bytes(
    config: ModelConfig, tokens: int, bytes_per_value: float = 2, *, checkpointed: bool = False
) -> float:
    """Bytes kept for the backward pass of `tokens` tokens in one micro-batch, the logits (float32, twice) included.

    Args:
        checkpointed: only each block's input is kept and one block recomputed at a time.
    """
    stream = 4 * config.dim * len(config.blocks)  # residual stream and its norms, twice per block
    inner: float = sum(part.activations for part in parts(config))
    if checkpointed:
        stream, inner = config.dim * len(config.blocks), inner / len(config.blocks)
    logits = 2 * config.vocab_size * FP32_BYTES
    return tokens * ((stream + inner) * bytes_per_value + logits)


def training_bytes(
    config: ModelConfig, tokens: int, bytes_per_value: float = 2, *, checkpointed: bool = False
) -> float:
    """Memory of training: float32 weights and gradients, AdamW's state, activations of one micro-batch."""
    weights = 2 * weight_bytes(config, FP32_BYTES) + optimizer_bytes(config)
    return weights + activation_bytes(config, tokens, bytes_per_value, checkpointed=checkpointed)
