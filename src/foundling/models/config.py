"""What a model is, as data: a stack of blocks, each a mixer (what tokens tell each other) and a feed-forward.

Nothing here imports torch, so that plans and the command line can reason about models at no cost.
To add a part: a config class with its own `kind`, a line in the union below, a line in `layers/parts.py` (the module)
and a line in `cost.py` (its numbers).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foundling.core.config import Config, option
from foundling.models.layers.recurrent_config import RecurrentMixerConfig
from foundling.models.layers.rope_config import RopeConfig

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


class NormConfig(Config):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016)."""

    kind: Literal["rms", "layer"] = option("rms", "rms: scale only; layer: also centres")
    eps: float = option(1e-6, "added to the variance", gt=0)
    bias: bool = option(False, "a learned shift (layer norm only)")
    unit_offset: bool = option(False, "the stored weight is the scale minus one (Gemma)")


class RelativeBiasConfig(Config):
    """T5's learned bias per head and bucket of distance (Raffel et al. 2020, arXiv:1910.10683), shared by a stack."""

    buckets: int = option(32, "number of buckets", gt=1)
    max_distance: int = option(128, "distances from here on share a bucket", gt=1)


class AttentionConfig(Config):
    """Softmax attention; `n_kv_heads` below `n_heads` shares keys and values between query heads (GQA, MQA)."""

    kind: Literal["attention"] = "attention"
    n_heads: int = option(help="query heads", gt=0)
    n_kv_heads: int = option(help="key/value heads, a divisor of n_heads", gt=0)
    head_dim: int = option(help="width of one head", gt=0)
    rope: RopeConfig | None = option(None, "rotary positions; null for none")
    qk_norm: NormConfig | None = option(None, "norm of queries and keys before RoPE")
    qk_norm_over: Literal["head", "all"] = option("head", "each head by itself (Qwen3) or all heads together (OLMo 2)")
    qkv_bias: bool = option(False, "biases on the query, key and value projections")
    out_bias: bool = option(False, "bias on the output projection")
    window: int | None = option(None, "see tokens less than this far away only")
    causal: bool = option(True, "tokens see only what precedes them")
    alibi: bool = option(False, "linear biases by distance (Press et al. 2021, arXiv:2108.12409)")
    relative_bias: bool = option(False, "add the stack's relative position bias (T5)")
    scale: float | None = option(None, "of the logits; null for 1 / sqrt(head_dim)")
    softcap: float | None = option(None, "cap of the logits: cap * tanh(logits / cap) (Gemma 2)")
    clip_qkv: float | None = option(None, "clamp queries, keys and values to plus or minus this (OLMoE)")


class MLAConfig(Config):
    """Multi-head latent attention: keys and values expand from one small cached vector (arXiv:2405.04434)."""

    kind: Literal["mla"] = "mla"
    n_heads: int = option(help="heads", gt=0)
    q_rank: int | None = option(None, "width of the queries' latent; null projects directly")
    kv_rank: int = option(help="width of the latent that keys and values expand from", gt=0)
    nope_dim: int = option(help="width of a head's part without positions", gt=0)
    rope_dim: int = option(help="width of a head's rotated part, shared by all keys", gt=0)
    v_dim: int = option(help="width of a head's values", gt=0)
    rope: RopeConfig = option(RopeConfig(), "rotary positions of the rotated part")
    bias: bool = option(False, "biases on the down and output projections")
    scale: float | None = option(None, "of the logits; null for 1 / sqrt(nope_dim + rope_dim)")


class MLPConfig(Config):
    """Feed-forward layer; gated is SwiGLU with silu and GeGLU with gelu (Shazeer 2020, arXiv:2002.05202)."""

    kind: Literal["mlp"] = "mlp"
    hidden: int = option(help="width of the inner layer", gt=0)
    activation: Activation = option("silu", "nonlinearity")
    gated: bool = option(True, "multiply by a second projection")
    bias: bool = option(False, "biases on all projections")


class MoEConfig(Config):
    """Mixture of experts: each token uses its `top_k` of `n_experts` gated feed-forwards (arXiv:1701.06538)."""

    kind: Literal["moe"] = "moe"
    n_experts: int = option(help="routed experts", gt=0)
    top_k: int = option(help="experts per token", gt=0)
    hidden: int = option(help="inner width of one expert", gt=0)
    shared_hidden: int | None = option(None, "inner width of the expert that every token uses; null for none")
    activation: Activation = option("silu", "nonlinearity")
    scores: Literal["softmax", "sigmoid"] = option("softmax", "how router logits become weights")
    normalize: bool = option(False, "weights of the chosen experts sum to one")
    scale: float = option(1.0, "of the routed experts' sum")
    n_groups: int | None = option(None, "experts form this many groups, chosen first (DeepSeek)")
    top_groups: int | None = option(None, "groups per token")
    correction_bias: bool = option(False, "balance by a bias on the choice instead of a loss (arXiv:2408.15664)")
    capacity_factor: float | None = option(None, "experts take at most this times their even share; null: all tokens")
    balance_weight: float = option(0.0, "weight of the load-balancing loss (arXiv:2101.03961)", ge=0)
    z_weight: float = option(0.0, "weight of the router z-loss (arXiv:2202.08906)", ge=0)


MixerConfig = Annotated[AttentionConfig | MLAConfig | RecurrentMixerConfig, Field(discriminator="kind")]
FeedForwardConfig = Annotated[MLPConfig | MoEConfig, Field(discriminator="kind")]


class BlockConfig(Config):
    """One residual block: x + mixer(norm(x)), then x + ffn(norm(x)); see `norms` for other places of the norm."""

    mixer: MixerConfig
    cross: AttentionConfig | None = option(None, "attention to the encoder's output, between the two")
    ffn: FeedForwardConfig | None = option(None, "feed-forward; null for none")
    norms: Literal["pre", "post", "sandwich", "after"] = option(
        "pre", "pre: x + f(norm(x)); post: x + norm(f(x)); sandwich: x + norm(f(norm(x))); after: norm(x + f(x))"
    )
    parallel: bool = option(False, "x + mixer(norm(x)) + ffn(norm(x)) (GPT-NeoX)")
    mixer_norm: bool = option(True, "norm the mixer's input (ModernBERT's first block does not)")


class EmbeddingConfig(Config):
    """What is added to, or done with, the token embeddings."""

    positions: Literal["none", "learned", "sinusoidal"] = option("none", "absolute positions, added")
    position_offset: int = option(0, "position 0 is this row of the table (RoBERTa)", ge=0)
    token_types: int = option(0, "kinds of segments that have an embedding (BERT)", ge=0)
    norm: bool = option(False, "norm the sum")
    scale: float = option(1.0, "factor on the token embeddings (Gemma)")


class HeadConfig(Config):
    """What turns hidden states into outputs."""

    kind: Literal["lm", "mlm", "labels", "none"] = option(
        "lm", "lm: logits; mlm: a dense layer, a norm, then logits (BERT); labels: scores; none: hidden states only"
    )
    n_labels: int = option(0, "scores per token, for labels", ge=0)
    bias: bool = option(False, "bias on the logits")
    scale: float = option(1.0, "factor on the hidden states (T5)")
    softcap: float | None = option(None, "cap of the logits (Gemma 2)")
    activation: Activation = option("gelu", "of mlm's dense layer")
    dense_bias: bool = option(True, "bias of mlm's dense layer")
    pooler: bool = option(False, "a dense layer with tanh over the first token (BERT)")


class EncoderConfig(Config):
    """The encoder of an encoder-decoder; it shares the decoder's embedding, width and kind of norm."""

    blocks: tuple[BlockConfig, ...] = option(help="the stack, first to last", min_length=1)
    relative_bias: RelativeBiasConfig | None = option(None, "relative position bias of the stack")


class ModelConfig(Config):
    """A language model: embedding, blocks, norm, head."""

    family: str = option(help="model_type of the Hugging Face directory")
    vocab_size: int = option(help="rows of the embedding", gt=0)
    dim: int = option(help="width of the residual stream", gt=0)
    blocks: tuple[BlockConfig, ...] = option(help="the stack, first to last", min_length=1)
    norm: NormConfig = option(NormConfig(), "the norms of the residual stream")
    final_norm: bool = option(True, "norm the last hidden state")
    embedding: EmbeddingConfig = option(EmbeddingConfig(), "positions and the like at the input")
    head: HeadConfig = option(HeadConfig(), "the output")
    encoder: EncoderConfig | None = option(None, "encoder of an encoder-decoder")
    relative_bias: RelativeBiasConfig | None = option(None, "relative position bias of the (decoder) stack")
    tie_embeddings: bool = option(False, "the head uses the embedding's matrix")
    max_positions: int = option(2048, "longest sequence the model is made for", gt=0)
    bos_token_id: int | None = option(None, "first token of a sequence")
    eos_token_id: int | tuple[int, ...] | None = option(None, "token(s) that end a sequence")
    pad_token_id: int | None = option(None, "padding token")

    @property
    def norm_eps(self) -> float:
        """The epsilon of the residual stream's norms."""
        return self.norm.eps

    @property
    def causal(self) -> bool:
        """Whether the stack can be decoded token by token."""
        return all(not isinstance(block.mixer, AttentionConfig) or block.mixer.causal for block in self.blocks)

    @property
    def left_to_right(self) -> bool:
        """Whether it continues texts: a causal stack with a head over the vocabulary."""
        return self.causal and self.head.kind in ("lm", "mlm")

    @property
    def llama_shaped(self) -> bool:
        """Whether there is nothing in it that Llama, Mistral, Qwen2 or Qwen3 lack: what a fused decoder may rely on."""
        plain = (self.embedding, self.head, self.final_norm) == (EmbeddingConfig(), HeadConfig(), True)
        return plain and self.encoder is None and all(map(_llama_shaped, self.blocks))

    @property
    def decoder_start(self) -> int:
        """First token of an encoder-decoder's answer: T5 begins with its padding."""
        return self.pad_token_id or 0

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def n_parameters(self, *, active: bool = False, embeddings: bool = True) -> int:
        """Number of weights: see `cost.n_parameters`."""
        from foundling.models import cost

        return cost.n_parameters(self, active=active, embeddings=embeddings)

    def flops_per_token(self, context: int, *, training: bool = False) -> float:
        """Matrix FLOPs per token at a context length: see `cost.flops_per_token`."""
        from foundling.models import cost

        return cost.flops_per_token(self, context, training=training)

    def kv_bytes_per_token(self, bytes_per_value: float = 2) -> float:
        """Bytes the cache grows by per token: see `cost.kv_bytes_per_token`."""
        from foundling.models import cost

        return cost.kv_bytes_per_token(self, bytes_per_value)

    def training_bytes(self, tokens: int, bytes_per_value: float = 2, *, checkpointed: bool = False) -> float:
        """Memory of training with `tokens` tokens in a micro-batch: see `cost.training_bytes`."""
        from foundling.models import cost

        return cost.training_bytes(self, tokens, bytes_per_value, checkpointed=checkpointed)


def uniform_blocks(n_layers: int, mixer: MixerConfig, ffn: FeedForwardConfig | None) -> tuple[BlockConfig, ...]:
    """The same block `n_layers` times."""
    return (BlockConfig(mixer=mixer, ffn=ffn),) * n_layers


def _llama_shaped(block: BlockConfig) -> bool:
    mixer, ffn = block.mixer, block.ffn
    if not isinstance(mixer, AttentionConfig) or not isinstance(ffn, MLPConfig):
        return False
    kept = {"n_heads", "n_kv_heads", "head_dim", "rope", "qk_norm", "qkv_bias", "out_bias", "window"}
    same = AttentionConfig(**{name: getattr(mixer, name) for name in kept})
    rotated = mixer.rope is None or (mixer.rope.fraction == 1.0 and not mixer.rope.interleaved)
    return rotated and block == BlockConfig(mixer=same, ffn=ffn)
