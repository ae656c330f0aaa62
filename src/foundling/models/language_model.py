"""The model: embedding, blocks, norm, head. Parallelism, quantization and adapters come from outside."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.models.config import BlockConfig, EncoderConfig, ModelConfig, RelativeBiasConfig
from foundling.models.context import Context, Encoded
from foundling.models.layers.block import Block
from foundling.models.layers.embedding import InputEmbedding
from foundling.models.layers.head import LogitBias, MaskedHead
from foundling.models.layers.norm import Norm
from foundling.models.layers.parts import LayerState, Mixer
from foundling.models.layers.relative_bias import RelativeBias


class LanguageModel(nn.Module):
    """A model described by a ModelConfig. Parameters are uninitialised: see `build` and `checkpoint.load_module`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.inputs = InputEmbedding(config)
        self.encoder = Encoder(config.encoder, config) if config.encoder else None
        self.relative_bias = _relative_bias(config.relative_bias, config.blocks)
        self.blocks = nn.ModuleList(Block(block, config.dim, config.norm) for block in config.blocks)
        self.norm = Norm(config.dim, config.norm) if config.final_norm else None
        head = config.head
        self.transform = MaskedHead(config) if head.kind == "mlm" else None
        self.output: nn.Linear | None = None
        if head.kind == "labels":
            self.output = nn.Linear(config.dim, head.n_labels, head.bias)
        elif head.kind != "none" and not config.tie_embeddings:
            self.output = nn.Linear(config.dim, config.vocab_size, head.bias)
        tied_bias = head.bias and config.tie_embeddings and head.kind in ("lm", "mlm")
        self.output_bias = LogitBias(config.vocab_size) if tied_bias else None
        self.pooler = nn.Linear(config.dim, config.dim) if head.pooler else None

    def hidden(
        self,
        tokens: Tensor,
        ctx: Context | None = None,
        state: list[LayerState] | None = None,
        encoder_tokens: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (rows, time, dim) of tokens (rows, time) int64.

        Args:
            ctx: positions, segments and cache; None: each row is one whole sequence.
            state: one entry per block from `new_state`, updated in place; needs `ctx.cache`.
            encoder_tokens: (rows, encoder time), for an encoder-decoder whose `ctx.encoded` is not set.
        """
        ctx = ctx or Context.full(tokens.shape[0], tokens.shape[1], tokens.device)
        if encoder_tokens is not None:
            ctx.encoded = self.encode(encoder_tokens)
        x = self.inputs(self.embedding(tokens), ctx)
        ctx.relative_bias = None if self.relative_bias is None else self.relative_bias.bias
        for i, block in enumerate(self.blocks):
            x = block(x, ctx, None if state is None else state[i])
        return x if self.norm is None else self.norm(x)

    def encode(self, tokens: Tensor, ctx: Context | None = None) -> Encoded:
        """The encoder's output for tokens (rows, encoder time): what `ctx.encoded` of the decoder's passes takes."""
        assert self.encoder is not None, f"a {self.config.family} model has no encoder"
        ctx = ctx or Context.full(tokens.shape[0], tokens.shape[1], tokens.device)
        return Encoded(self.encoder(self.inputs(self.embedding(tokens), ctx), ctx), ctx.segments)

    def head(self, h: Tensor) -> Tensor:
        """Logits (..., vocab) or scores (..., n_labels) of hidden states (..., dim). Losses may apply it to pieces."""
        head = self.config.head
        assert head.kind != "none", f"this {self.config.family} model has no head"
        if self.transform is not None:
            h = self.transform(h)
        if head.scale != 1.0:
            h = h * head.scale
        logits = F.linear(h, self.embedding.weight) if self.output is None else self.output(h)
        if self.output_bias is not None:
            logits = logits + self.output_bias.bias
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        return cast(Tensor, logits)

    def pooled(self, h: Tensor) -> Tensor:
        """BERT's summary of each row: tanh of a dense layer over the first token, (rows, time, dim) -> (rows, dim)."""
        assert self.pooler is not None, f"this {self.config.family} model has no pooler"
        return torch.tanh(self.pooler(h[:, 0]))

    def forward(
        self,
        tokens: Tensor,
        ctx: Context | None = None,
        state: list[LayerState] | None = None,
        encoder_tokens: Tensor | None = None,
    ) -> Tensor:
        """Logits (rows, time, vocab): `head(hidden(...))`."""
        return self.head(self.hidden(tokens, ctx, state, encoder_tokens))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> list[LayerState]:
        """Empty per-layer states for `slots` sequences and `blocks` cache blocks (block 0 is reserved for padding)."""
        mixers = (cast(Mixer, cast(Block, block).mixer) for block in self.blocks)
        return [mixer.new_state(slots, blocks, block_size, dtype, device) for mixer in mixers]


class Encoder(nn.Module):
    """The stack whose output a decoder attends to."""

    def __init__(self, config: EncoderConfig, model: ModelConfig) -> None:
        super().__init__()
        self.relative_bias = _relative_bias(config.relative_bias, config.blocks)
        self.blocks = nn.ModuleList(Block(block, model.dim, model.norm) for block in config.blocks)
        self.norm = Norm(model.dim, model.norm)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x (rows, time, dim), embedded tokens -> (rows, time, dim)."""
        ctx.relative_bias = None if self.relative_bias is None else self.relative_bias.bias
        for block in self.blocks:
            x = block(x, ctx)
        out: Tensor = self.norm(x)
        return out


def require_left_to_right(config: ModelConfig) -> None:
    """Refuse a model that cannot continue a text: an encoder, or one whose head gives scores.

    Raises:
        FoundlingError: it sees both ways, or has no head over the vocabulary.
    """
    if config.head.kind == "labels":
        raise FoundlingError("a reward model or a classifier gives scores, not text", fix="Name a language model")
    if not config.left_to_right:
        what = f"this {config.family} model does not continue texts: it sees both ways"
        raise FoundlingError(what, "it gives embeddings and fills in", "Name a causal language model")


def _relative_bias(config: RelativeBiasConfig | None, blocks: tuple[BlockConfig, ...]) -> RelativeBias | None:
    if config is None:
        return None
    mixer = blocks[0].mixer
    assert mixer.kind == "attention"
    return RelativeBias(config, mixer.n_heads, mixer.causal)
