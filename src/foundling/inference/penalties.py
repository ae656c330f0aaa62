"""What changes single logits before temperature: biases, penalties and bans. Pure functions on one row of logits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from foundling.inference.parameters import SamplingParams


def edit(
    scores: Tensor,
    params: SamplingParams,
    prompt: Sequence[int],
    answer: Sequence[int],
    bad_words: Sequence[Sequence[int]],
    stop_ids: Collection[int],
) -> Tensor:
    """All of this file's steps on one row (vocab,), in the documented order.

    Args:
        prompt, answer: tokens so far.
        bad_words: every banned token sequence.
        stop_ids: what `min_tokens` holds back.
    """
    if params.logit_bias:
        scores = logit_bias(scores, params.logit_bias)
    if params.repetition_penalty != 1:
        scores = repetition_penalty(scores, [*prompt, *answer], params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        scores = presence_frequency_penalty(scores, answer, params.presence_penalty, params.frequency_penalty)
    if bad_words:
        scores = ban(scores, completing(bad_words, [*prompt, *answer]))
    if len(answer) < params.min_tokens:
        scores = ban(scores, stop_ids)
    return scores


def logit_bias(scores: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add to the logits of single tokens (OpenAI's `logit_bias`)."""
    tokens = torch.tensor(list(bias), device=scores.device)
    values = torch.tensor(list(bias.values()), dtype=scores.dtype, device=scores.device)
    return scores.index_add(0, tokens, values)


def repetition_penalty(scores: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Divide the positive logits of `tokens` by the penalty and multiply the negative ones (arXiv:1909.05858)."""
    seen = torch.tensor(sorted(set(tokens)), device=scores.device)
    old = scores[seen]
    return scores.index_copy(0, seen, torch.where(old < 0, old * penalty, old / penalty))


def presence_frequency_penalty(scores: Tensor, answer: Sequence[int], presence: float, frequency: float) -> Tensor:
    """logit - presence * (count > 0) - frequency * count, counted over the answer (OpenAI's definition)."""
    if not answer:
        return scores
    tokens, counts = torch.tensor(answer, device=scores.device).unique(return_counts=True)
    return scores.index_add(0, tokens, -(presence + frequency * counts).to(scores.dtype))


def completing(sequences: Sequence[Sequence[int]], tokens: Sequence[int]) -> set[int]:
    """The last tokens of those sequences whose other tokens are how `tokens` ends."""
    return {
        sequence[-1]
        for sequence in sequences
        if len(sequence) == 1 or list(tokens[len(tokens) - len(sequence) + 1 :]) == list(sequence[:-1])
    }


def ban(scores: Tensor, tokens: Collection[int]) -> Tensor:
    """Make tokens impossible."""
    if not tokens:
        return scores
    return scores.index_fill(0, torch.tensor(sorted(tokens), device=scores.device), -torch.inf)
