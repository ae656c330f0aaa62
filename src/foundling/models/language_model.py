"""The language model: embedding, blocks, norm, head. Parallelism, quantization and adapters come from outside."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.config import BlockConfig, ModelConfig, NormConfig
from foundling.models.context import Context
from foundling.models.layers.norm import Norm
from foundling.models.layers.parts import LayerState, Mixer, make_feed_forward, make_mixer


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, config: BlockConfig, dim: int, norm: NormConfig) -> None:
        super().__init__()
        self.mixer_norm = Norm(dim, norm)
        self.mixer = make_mixer(config.mixer, dim)
        self.ffn_norm = Norm(dim, norm) if config.ffn else None
        self.ffn = make_feed_forward(config.ffn, dim) if config.ffn else None

    def forward(self, x: Tensor, ctx: Context, state: LayerState | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        x = x + self.mixer(self.mixer_norm(x), ctx, state)
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x), ctx)
        return x


class LanguageModel(nn.Module):
    """A decoder described by a ModelConfig. Parameters are uninitialised: see `build` and `checkpoint.load_module`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.embedding_norm = Norm(config.dim, config.embedding_norm) if config.embedding_norm else None
        self.blocks = nn.ModuleList(Block(block, config.dim, config.norm) for block in config.blocks)
        self.norm = Norm(config.dim, config.norm)
        self.output = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)

    def hidden(self, tokens: Tensor, ctx: Context | None = None, state: list[LayerState] | None = None) -> Tensor:
        """Final hidden states (rows, time, dim) of tokens (rows, time) int64.

        Args:
            ctx: positions, segments and cache; None: each row is one whole sequence.
            state: one entry per block from `new_state`, updated in place; needs `ctx.cache`.
        """
        ctx = ctx or Context.full(tokens.shape[0], tokens.shape[1], tokens.device)
        x = self.embedding(tokens)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        for i, block in enumerate(self.blocks):
            x = block(x, ctx, None if state is None else state[i])
        out: Tensor = self.norm(x)
        return out

    def head(self, h: Tensor) -> Tensor:
        """Logits (..., vocab) of hidden states (..., dim). Losses may apply it to pieces of h."""
        if self.output is None:
            return F.linear(h, self.embedding.weight)
        logits: Tensor = self.output(h)
        return logits

    def forward(self, tokens: Tensor, ctx: Context | None = None, state: list[LayerState] | None = None) -> Tensor:
        """Logits (rows, time, vocab): `head(hidden(...))`."""
        return self.head(self.hidden(tokens, ctx, state))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> list[LayerState]:
        """Empty per-layer states for `slots` sequences and `blocks` cache blocks (block 0 is reserved for padding)."""
        mixers = (cast(Mixer, cast(Block, block).mixer) for block in self.blocks)
        return [mixer.new_state(slots, blocks, block_size, dtype, device) for mixer in mixers]
