"""Texts as vectors: the mean of the final hidden states (of the encoder, where there is one)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F

from foundling.inference.runner import Runner, padded
from foundling.models.context import Context

TOKENS_PER_PASS = 4096


def embed(runner: Runner, prompts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """Unit vectors (n, dim): the mean over each prompt's tokens of the final hidden states."""
    out = np.zeros((len(prompts), runner.module.config.dim), dtype=np.float32)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    at = 0
    while at < len(order):
        longest = len(prompts[order[at]])
        batch = order[at : at + max(1, TOKENS_PER_PASS // longest)]
        tokens, segments = (part.to(runner.device) for part in padded([prompts[number] for number in batch]))
        ctx, module = Context.packed(segments), runner.module
        with runner.precision():
            hidden = module.hidden(tokens, ctx) if module.encoder is None else module.encode(tokens, ctx).hidden
        hidden = hidden.float()
        inside = (segments >= 0)[..., None]
        mean = hidden.masked_fill(~inside, 0.0).sum(1) / inside.sum(1)
        out[batch] = F.normalize(mean, dim=-1).cpu().numpy()
        at += len(batch)
    return out
