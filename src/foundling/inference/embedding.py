"""Texts as vectors: the pooled final hidden states (of the encoder, where there is one)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from foundling.inference.runner import padded
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.models.pooling import PoolingConfig, pool

TOKENS_PER_PASS = 4096


def embed(module: LanguageModel, prompts: Sequence[Sequence[int]], pooling: PoolingConfig) -> npt.NDArray[np.float32]:
    """Vectors (n, dim) of token sequences; padding changes none of them."""
    device = next(module.parameters()).device
    out = np.zeros((len(prompts), module.config.dim), dtype=np.float32)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    at = 0
    while at < len(order):
        longest = max(1, len(prompts[order[at]]))
        batch = order[at : at + max(1, TOKENS_PER_PASS // longest)]
        tokens, segments = (part.to(device) for part in padded([prompts[number] for number in batch]))
        ctx = Context.packed(segments)
        hidden = module.hidden(tokens, ctx) if module.encoder is None else module.encode(tokens, ctx).hidden
        out[batch] = pool(hidden.float(), segments >= 0, pooling).cpu().numpy()
        at += len(batch)
    return out
