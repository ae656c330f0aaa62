"""From logits to a token: pure functions on a batch of logits, one row per sequence.

Order of operations (that of `transformers`, so that results can be compared):

1. log-probabilities to report: log softmax of the logits as the model gave them (temperature 1, nothing removed)
2. logit bias, then repetition, presence and frequency penalties (`penalties.py`)
3. bans: bad words, stop ids before `min_tokens`, tokens that the grammar does not allow
4. temperature; at 0 the most probable token is taken and the steps below are skipped
5. top-k
6. top-p of what is left, then min-p, then typical
7. draw: the inverse of the cumulative distribution at one uniform number

The uniform number is a pure function of (seed of the sequence, index of the token): no generator state exists, so the
tokens do not depend on what else is in the batch, on preemption or on restarts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foundling.inference.parameters import SamplingParams

__all__ = ["SamplingParams", "SamplingRows", "draw", "min_p", "probabilities", "sample", "top_k", "top_p", "uniforms"]


@dataclass(frozen=True)
class SamplingRows:
    """The parameters of a batch, one entry per row.

    Args:
        temperature, top_p, min_p, typical_p: (rows,) float32.
        top_k: (rows,) int64, 0 = off.
        seeds: (rows,) uint64.
        indices: (rows,) int64, how many tokens the sequence has generated before this one.
    """

    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float32]
    min_p: npt.NDArray[np.float32]
    typical_p: npt.NDArray[np.float32]
    seeds: npt.NDArray[np.uint64]
    indices: npt.NDArray[np.int64]


def sample(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Choose one token per row. logits (rows, vocab) -> (rows,) int64."""
    greedy = rows.temperature == 0
    if greedy.all():
        return logits.argmax(-1)
    chosen = draw(probabilities(logits, rows), uniforms(rows.seeds, rows.indices).to(logits.device))
    if greedy.any():
        chosen = torch.where(torch.from_numpy(greedy).to(logits.device), logits.argmax(-1), chosen)
    return chosen


def probabilities(logits: Tensor, rows: SamplingRows) -> Tensor:
    """The distribution that is drawn from. logits (rows, vocab) -> (rows, vocab) float32; greedy rows as at T = 1."""
    device = logits.device
    temperature = np.where(rows.temperature > 0, rows.temperature, 1.0).astype(np.float32)
    scores = logits.float() / torch.from_numpy(temperature).to(device)[:, None]
    if (rows.top_k > 0).any():
        scores = top_k(scores, torch.from_numpy(rows.top_k).to(device))
    if (rows.top_p < 1).any():
        scores = top_p(scores, torch.from_numpy(rows.top_p).to(device))
    if (rows.min_p > 0).any():
        scores = min_p(scores, torch.from_numpy(rows.min_p).to(device))
    if (rows.typical_p < 1).any():
        scores = typical_p(scores, torch.from_numpy(rows.typical_p).to(device))
    return scores.softmax(-1)


def top_k(scores: Tensor, k: Tensor) -> Tensor:
    """Remove all but the k highest scores of each row (ties with the k-th stay). k (rows,) int64, 0 = keep all."""
    widest = int(k.clamp(max=scores.shape[-1]).max())
    highest = scores.topk(widest, dim=-1).values
    threshold = highest.gather(1, (k.clamp(max=widest) - 1).clamp(min=0)[:, None])
    threshold = threshold.masked_fill((k == 0)[:, None], -torch.inf)
    return scores.masked_fill(scores < threshold, -torch.inf)


def top_p(scores: Tensor, p: Tensor) -> Tensor:
    """Keep the smallest set of most probable tokens whose probability reaches p (ties with the last stay).

    p (rows,), 1 = keep all.
    """
    ascending = _sorted(scores)
    mass = ascending.softmax(-1).cumsum(-1)  # from the tail, where rounding is smallest
    removed = (mass <= 1 - p[:, None]).sum(-1, keepdim=True).clamp_(max=scores.shape[-1] - 1)
    threshold = ascending.gather(1, removed).masked_fill((p >= 1)[:, None], -torch.inf)
    return scores.masked_fill(scores < threshold, -torch.inf)


def _sorted(scores: Tensor) -> Tensor:
    """Each row in ascending order."""
    if scores.device.type != "cpu":
        return scores.sort(-1).values
    return torch.from_numpy(np.sort(scores.numpy(), axis=-1))  # vectorised: 15 times as fast as torch's on a CPU


def min_p(scores: Tensor, fraction: Tensor) -> Tensor:
    """Remove tokens less probable than `fraction` times the most probable one. fraction (rows,), 0 = keep all."""
    threshold = scores.amax(-1, keepdim=True) + fraction.log()[:, None]
    return scores.masked_fill(scores < threshold, -torch.inf)


def typical_p(scores: Tensor, mass: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy, until they reach `mass` (arXiv:2202.00666).

    mass (rows,), 1 = keep all.
    """
    logprobs = scores.log_softmax(-1)
    probs = logprobs.exp()
    entropy = -(logprobs * probs).nansum(-1, keepdim=True)
    distance = (-logprobs - entropy).abs()
    nearest, order = distance.sort(-1)
    reached = probs.gather(1, order).cumsum(-1)
    last = (reached < mass[:, None]).sum(-1, keepdim=True).clamp_(max=scores.shape[-1] - 1)
    threshold = nearest.gather(1, last).masked_fill((mass >= 1)[:, None], torch.inf)
    return scores.masked_fill(distance > threshold, -torch.inf)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes `uniform` (rows,) in [0, 1). probs (rows, vocab)."""
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1]
    point = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point[:, None], right=True)[:, 0]


def uniforms(seeds: npt.NDArray[np.uint64], indices: npt.NDArray[np.int64]) -> Tensor:
    """One number in [0, 1) for each (seed, index): the SplitMix64 generator (Steele et al. 2014) at that index."""
    with np.errstate(over="ignore"):
        z = seeds + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))
