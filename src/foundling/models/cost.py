"""What a model costs: parameters, FLOPs, cache bytes, training memory; from its config alone, without torch.

A FLOP is one multiply or one add, counted over matrix products only (as `torch.utils.flop_counter` and the literature
do): a matrix of n weights costs 2n per token forward, and the backward pass twice as much (Kaplan et al. 2020,
arXiv:2001.08361, appendix B). Attention over a context of c tokens adds 4 * c * heads * head_dim per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from foundling.models.config import (
    AttentionConfig,
    BlockConfig,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
)
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
    if config.qk_norm is not None:
        widths = q + kv if config.qk_norm_over == "all" else 2 * config.head_dim
        extra += norm_parameters(config.qk_norm, widths)
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


def _mla(config: MLAConfig, dim: int) -> PartCost:
    width = config.nope_dim + config.rope_dim
    latents = config.kv_rank + (config.q_rank or 0)
    weights = (config.q_rank or dim) * config.n_heads * width + dim * (config.kv_rank + config.rope_dim)
    weights += dim * (config.q_rank or 0) + config.kv_rank * config.n_heads * (config.nope_dim + config.v_dim)
    weights += config.n_heads * config.v_dim * dim
    biases = ((config.q_rank or 0) + config.kv_rank + config.rope_dim + dim) if config.bias else 0
    return PartCost(
        parameters=weights + latents + biases,  # each latent has a norm
        active=weights + latents + biases,
        matmul_weights=weights,
        flops_per_key=2.0 * config.n_heads * (width + config.v_dim),
        cache_values=config.kv_rank + config.rope_dim,
        # input, latents before and after their norms, queries, keys and values, attention's output
        activations=dim + 2 * latents + config.n_heads * (3 * width + 2 * config.v_dim),
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
    cost: Any = RECURRENT_COSTS[config.kind]
    return PartCost(**cost(config, dim))


PARTS: dict[str, Callable[[Any, int], PartCost]] = {"attention": _attention, "mla": _mla, "mlp": _mlp, "moe": _moe}
PARTS |= dict.fromkeys(RECURRENT_COSTS, _recurrent)


def parts(config: ModelConfig) -> list[PartCost]:
    """The cost of every mixer, cross attention and feed-forward of the stack, and of the encoder's if there is one."""
    return decoder_parts(config) + _encoder_parts(config)


def decoder_parts(config: ModelConfig) -> list[PartCost]:
    """Without the encoder's: what grows with the tokens that are generated."""
    return [cost for block in config.blocks for cost in _block_parts(block, config.dim)]


def _encoder_parts(config: ModelConfig) -> list[PartCost]:
    blocks = config.encoder.blocks if config.encoder else ()
    return [cost for block in blocks for cost in _block_parts(block, config.dim)]


def _block_parts(block: BlockConfig, dim: int) -> list[PartCost]:
    cross = [replace(_attention(block.cross, dim), cache_values=0)] if block.cross else []
    mixers = [PARTS[part.kind](part, dim) for part in (block.mixer, block.ffn) if part is not None]
    return mixers + cross


def n_parameters(config: ModelConfig, *, active: bool = False, embeddings: bool = True) -> int:
    """Number of weights; `active`: only those a single token uses; without `embeddings`: neither tables nor head."""
    blocks = (*config.blocks, *(config.encoder.blocks if config.encoder else ()))
    total = sum(part.active if active else part.parameters for part in parts(config))
    n_norms = sum(map(_norms, blocks)) + config.final_norm + (config.encoder is not None) + config.embedding.norm
    total += n_norms * norm_parameters(config.norm, config.dim) + _relative_biases(config)
    return total + (_tables(config) + _head(config) if embeddings else 0)


def _norms(block: BlockConfig) -> int:
    sides = 2 if block.norms == "sandwich" else 1
    cross = 1 if block.cross else 0
    return (sides if block.mixer_norm else sides - 1) + cross + (sides if block.ffn else 0)


def _relative_biases(config: ModelConfig) -> int:
    stacks = [(config.relative_bias, config.blocks)]
    stacks += [(config.encoder.relative_bias, config.encoder.blocks)] if config.encoder else []
    count = 0
    for bias, blocks in stacks:
        mixer = blocks[0].mixer
        count += bias.buckets * mixer.n_heads if bias and isinstance(mixer, AttentionConfig) else 0
    return count


def _tables(config: ModelConfig) -> int:
    parts = config.embedding
    positions = config.max_positions + parts.position_offset if parts.positions == "learned" else 0
    return (config.vocab_size + positions + parts.token_types) * config.dim


def _head(config: ModelConfig) -> int:
    head, dim = config.head, config.dim
    pooler = dim * dim + dim if head.pooler else 0
    if head.kind == "none":
        return pooler
    outputs = head.n_labels if head.kind == "labels" else config.vocab_size
    own = 0 if config.tie_embeddings and head.kind != "labels" else outputs * dim
    dense = dim * dim + (dim if head.dense_bias else 0) + norm_parameters(config.norm, dim) if head.kind == "mlm" else 0
    return own + (outputs if head.bias else 0) + dense + pooler


def flops_per_token(config: ModelConfig, context: int, *, training: bool = False) -> float:
    """Matrix FLOPs per token that attends to `context` tokens; training is three times forward.

    The half that a causal mask skips is counted too, as in PaLM's MFU (arXiv:2204.02311, appendix B). An
    encoder-decoder is counted for as many source tokens as target tokens.
    """
    outputs = {"none": 0, "labels": config.head.n_labels}.get(config.head.kind, config.vocab_size)
    forward = 2.0 * config.dim * (outputs + (config.dim if config.head.kind == "mlm" else 0))
    for part in parts(config):
        forward += 2.0 * part.matmul_weights + part.flops_per_key * min(context, part.window or context)
    return 3 * forward if training else forward


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: float = 2) -> float:
    """Bytes the cache grows by per token of a sequence."""
    return sum(part.cache_values for part in decoder_parts(config)) * bytes_per_value


def state_bytes(config: ModelConfig, context: int, bytes_per_value: float = 2) -> float:
    """Bytes kept for one sequence of `context` tokens: its keys and values, and any recurrent state."""
    cached = sum(part.cache_values * min(context, part.window or context) for part in decoder_parts(config))
    return (cached + sum(part.state_values for part in parts(config))) * bytes_per_value


def weight_bytes(config: ModelConfig, bytes_per_value: float = 2) -> float:
    """Bytes of the weights at a precision (2 for bfloat16, 4 for float32, 0.5 for int4 without scales)."""
    return n_parameters(config) * bytes_per_value


def optimizer_bytes(config: ModelConfig, states: int = 2) -> float:
    """Bytes of float32 optimizer state: two numbers per weight for AdamW, one for Muon or momentum."""
    return n_parameters(config) * states * FP32_BYTES


def activation_bytes(
    config: ModelConfig,
    tokens: int,
    bytes_per_value: float = 2,
    *,
    checkpointed: bool = False,
    logit_tokens: int | None = None,
) -> float:
    """Bytes kept for the backward pass of `tokens` tokens in one micro-batch, the logits (float32, twice) included.

    Args:
        checkpointed: only each block's input is kept and one block recomputed at a time.
        logit_tokens: tokens whose logits are held at once; None: all.
    """
    stream = 4 * config.dim * len(config.blocks)  # residual stream and its norms, twice per block
    inner: float = sum(part.activations for part in parts(config))
    if checkpointed:
        stream, inner = config.dim * len(config.blocks), inner / len(config.blocks)
    logits = (tokens if logit_tokens is None else logit_tokens) * 2 * config.vocab_size * FP32_BYTES
    return tokens * (stream + inner) * bytes_per_value + logits


def training_bytes(
    config: ModelConfig, tokens: int, bytes_per_value: float = 2, *, checkpointed: bool = False
) -> float:
    """Memory of training: float32 weights and gradients, AdamW's state, activations of one micro-batch."""
    weights = 2 * weight_bytes(config, FP32_BYTES) + optimizer_bytes(config)
    return weights + activation_bytes(config, tokens, bytes_per_value, checkpointed=checkpointed)
