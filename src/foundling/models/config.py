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

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


class NormConfig(Config):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016)."""

    kind: Literal["rms", "layer"] = option("rms", "rms: scale only; layer: also centres")
    eps: float = option(1e-6, "added to the variance", gt=0)
    bias: bool = option(False, "a learned shift (layer norm only)")
    unit_offset: bool = option(False, "the stored weight is the scale minus one (Gemma)")


class RopeConfig(Config):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

    theta: float = option(10000.0, "base of the wavelengths", gt=0)


class AttentionConfig(Config):
    """Softmax attention; `n_kv_heads` below `n_heads` shares keys and values between query heads (GQA, MQA)."""

    kind: Literal["attention"] = "attention"
    n_heads: int = option(help="query heads", gt=0)
    n_kv_heads: int = option(help="key/value heads, a divisor of n_heads", gt=0)
    head_dim: int = option(help="width of one head", gt=0)
    rope: RopeConfig | None = option(None, "rotary positions; null for none")
    qk_norm: NormConfig | None = option(None, "norm of each query and key head before RoPE (Qwen3)")
    qkv_bias: bool = option(False, "biases on the query, key and value projections")
    out_bias: bool = option(False, "bias on the output projection")
    window: int | None = option(None, "attend to this many latest tokens only, itself included")


class MLPConfig(Config):
    """Feed-forward layer; gated is SwiGLU with silu and GeGLU with gelu (Shazeer 2020, arXiv:2002.05202)."""

    kind: Literal["mlp"] = "mlp"
    hidden: int = option(help="width of the inner layer", gt=0)
    activation: Activation = option("silu", "nonlinearity")
    gated: bool = option(True, "multiply by a second projection")
    bias: bool = option(False, "biases on all projections")


MixerConfig = Annotated[AttentionConfig | RecurrentMixerConfig, Field(discriminator="kind")]
FeedForwardConfig = MLPConfig


class BlockConfig(Config):
    """One residual block: x + mixer(norm(x)), then x + ffn(norm(x))."""

    mixer: MixerConfig
    ffn: FeedForwardConfig | None = option(None, "feed-forward; null for none")


class ModelConfig(Config):
    """A language model: embedding, blocks, norm, head."""

    family: str = option(help="model_type of the Hugging Face directory")
    vocab_size: int = option(help="rows of the embedding", gt=0)
    dim: int = option(help="width of the residual stream", gt=0)
    blocks: tuple[BlockConfig, ...] = option(help="the stack, first to last", min_length=1)
    norm: NormConfig = option(NormConfig(), "the norms of the residual stream")
    embedding_norm: NormConfig | None = option(None, "norm of the embeddings, before the first block (RWKV, BERT)")
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
