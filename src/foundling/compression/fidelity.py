"""How far a compressed model's predictions are from its original's, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from foundling.evaluation.statistics import Interval, bootstrap_ratio
from foundling.models.language_model import LanguageModel


def prediction_changes(
    original: LanguageModel, compressed: LanguageModel, documents: Sequence[list[int]]
) -> dict[str, Interval]:
    """What the original's and the compressed model's predictions of the same documents differ in.

    kl_bits_per_token: KL(original || compressed). same_next_token: share of tokens after which both hold the same token
    for the likeliest. quality: bits of the text by the original over bits by the compressed model: what is left of it.

    Args:
        documents: token ids of each document; intervals are bootstrapped over documents.
    """
    tokens, bits, agreements = list[float](), list[float](), list[float]()
    before, after = list[float](), list[float]()  # bits of each document
    with torch.inference_mode():
        for ids in documents:  # one at a time: the logits of several long ones are gigabytes
            row = torch.tensor([ids])
            p = torch.log_softmax(original(row)[0].float(), -1)  # (time, vocab)
            q = torch.log_softmax(compressed(row)[0].float(), -1)
            targets = row[0, 1:].unsqueeze(-1)
            for found, x in ((before, p), (after, q)):
                found.append(-float(x[:-1].gather(-1, targets).sum()) / math.log(2))
            tokens.append(float(len(ids)))
            bits.append(float((p.exp() * (p - q)).sum()) / math.log(2))
            agreements.append(float((p.argmax(-1) == q.argmax(-1)).sum()))
    return {
        "kl_bits_per_token": bootstrap_ratio(bits, tokens, seed=("kl",)),
        "same_next_token": bootstrap_ratio(agreements, tokens, seed=("agreement",)),
        "quality": bootstrap_ratio(before, after, seed=("quality",)),
    }
