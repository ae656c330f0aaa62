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
    """What the original's and the compressed model's predictions of the same documents differ in.

    kl_bits_per_token: KL(original || compressed). same_next_token: share of tokens after which both hold the same token
    for the likeliest. quality: bits of the text by the original over bits by the compressed model: what is left of it.

    Args:
        documents: token ids of each document; intervals are bootstrapped over documents.
    """
    tokens, bits, agreements = [], [], []
    before, after = [], []  # bits of each document
    with torch.inference_mode():
        for start in range(0, len(documents), batch):
            chosen = documents[start : start + batch]
            longest = max(len(ids) for ids in chosen)
            padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in chosen])
            p = torch.log_softmax(original(padded).float(), -1)
            q = torch.log_softmax(compressed(padded).float(), -1)
            divergence = (p.exp() * (p - q)).sum(-1) / math.log(2)  # (documents, time)
            agreement = (p.argmax(-1) == q.argmax(-1)).float()
            targets = padded[:, 1:].unsqueeze(-1)
            own = [-x[:, :-1].gather(-1, targets).squeeze(-1) / math.log(2) for x in (p, q)]
            for row, ids in enumerate(chosen):
                before.append(float(own[0][row, : len(ids) - 1].sum()))
                after.append(float(own[1][row, : len(ids) - 1].sum()))
                tokens.append(float(len(ids)))
                bits.append(float(divergence[row, : len(ids)].sum()))
                agreements.append(float(agreement[row, : len(ids)].sum()))
    return {
        "kl_bits_per_token": bootstrap_ratio(bits, tokens, seed=("kl",)),
        "same_next_token": bootstrap_ratio(agreements, tokens, seed=("agreement",)),
        "quality": bootstrap_ratio(before, after, seed=("quality",)),
    }
