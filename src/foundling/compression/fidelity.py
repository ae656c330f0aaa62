"""How far a compressed model's predictions are from its original's, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from foundling.evaluation.statistics import Interval, bootstrap_ratio
from foundling.models.language_model import LanguageModel


def prediction_changes(
    original: LanguageModel, compressed: LanguageModel, documents: Sequence[list[int]], batch: int = 8
) -> dict[str, Interval]:
    """KL(original || compressed) in bits per token, and the share of tokens where both predict the same next token.

    Args:
        documents: token ids of each document; intervals are bootstrapped over documents.
    """
    tokens, bits, agreements = [], [], []
    with torch.inference_mode():
        for start in range(0, len(documents), batch):
            chosen = documents[start : start + batch]
            longest = max(len(ids) for ids in chosen)
            padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in chosen])
            p = torch.log_softmax(original(padded).float(), -1)
            q = torch.log_softmax(compressed(padded).float(), -1)
            divergence = (p.exp() * (p - q)).sum(-1) / math.log(2)  # (documents, time)
            agreement = (p.argmax(-1) == q.argmax(-1)).float()
            for row, ids in enumerate(chosen):
                tokens.append(float(len(ids)))
                bits.append(float(divergence[row, : len(ids)].sum()))
                agreements.append(float(agreement[row, : len(ids)].sum()))
    return {
        "kl_bits_per_token": bootstrap_ratio(bits, tokens, seed=("kl",)),
        "same_next_token": bootstrap_ratio(agreements, tokens, seed=("agreement",)),
    }
