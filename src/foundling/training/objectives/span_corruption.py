"""Span corruption: replace spans by sentinels, then write the spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from foundling.core.rng import numpy_rng
from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.token_files import TokenSplit
from foundling.training.windows import Numbers, Windows


def sentinel_names(count: int) -> tuple[str, ...]:
    """T5's sentinels."""
    return tuple(f"<|extra_{i}|>" for i in range(count))


@dataclass(frozen=True)
class Denoiser:
    """How much is hidden, and in pieces of which length."""

    rate: float
    span: float  # mean length in tokens; 0: one span, at the end (prefix language modelling)
    mode: int | None = None  # id of a token that tells the model which denoiser it is

    def spans(self, length: int) -> int:
        """Number of spans in `length` tokens."""
        return max(1, round(length * self.rate / self.span)) if self.span else 1


class SpanCorruption:
    """T5's objective (Raffel et al. 2020, §3.1.4) for a decoder: what is left is a prefix seen both ways, the hidden
    spans follow, each after its sentinel.

    Args:
        sentinels: ids, as many as the longest row can need.
        denoisers: one is drawn for each row; more than one is UL2's mixture (Tay et al. 2022).
    """

    def __init__(
        self,
        split: TokenSplit,
        context: int,
        batch_size: int,
        seed: int,
        *,
        sentinels: tuple[int, ...],
        denoisers: tuple[Denoiser, ...] = (Denoiser(0.15, 3.0),),
    ) -> None:
        self.length = _window_length(context, denoisers)
        self.windows = Windows(split, self.length, seed)
        self.split, self.context, self.batch_size, self.seed = split, context, batch_size, seed
        self.sentinels, self.denoisers = sentinels, denoisers
        needed = max(d.spans(self.length) for d in denoisers)
        assert len(sentinels) >= needed, f"{needed} sentinels are needed"

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Rows of [mode] kept text with sentinels, then sentinel + span for each; padded at the end."""
        starts = self.windows.of_step(step, self.batch_size)
        rng = numpy_rng(self.seed, "spans", step)
        tokens = np.full((self.batch_size, self.context + 1), self.split.eot_id, dtype=np.int64)
        mask = np.zeros((self.batch_size, self.context), dtype=np.float32)
        prefix = np.zeros(self.batch_size, dtype=np.int64)
        for row, text in enumerate(self.windows.read(starts, self.length)):
            given, hidden = self._corrupt(text, self.denoisers[rng.integers(len(self.denoisers))], rng)
            prefix[row] = len(given)
            tokens[row, : len(given) + len(hidden)] = np.concatenate([given, hidden])
            mask[row, len(given) - 1 : len(given) + len(hidden) - 1] = 1
        whole = torch.from_numpy(tokens)
        return Batch(
            tokens=whole[:, :-1].contiguous(),
            targets=whole[:, 1:].contiguous(),
            loss_mask=torch.from_numpy(mask),
            extra={"prefix": torch.from_numpy(prefix)},
            sources=self.windows.names(starts),
        )

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy of the sentinels and the hidden spans."""
        return next_token_loss(model, batch)

    def _corrupt(self, text: Numbers, denoiser: Denoiser, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
        spans = denoiser.spans(len(text))
        noise = min(len(text) - spans, max(spans, round(len(text) * denoiser.rate)))
        hidden = _random_lengths(noise, spans, rng)
        kept = _random_lengths(len(text) - noise, spans, rng) if denoiser.span else np.array([len(text) - noise])
        given: list[Numbers] = [] if denoiser.mode is None else [np.array([denoiser.mode])]
        answer: list[Numbers] = []
        at = 0
        for sentinel, keep, hide in zip(self.sentinels, kept, hidden, strict=False):
            given += [text[at : at + keep], np.array([sentinel])]
            answer += [np.array([sentinel]), text[at + keep : at + keep + hide]]
            at += keep + hide
        return np.concatenate(given), np.concatenate(answer)


def ul2_denoisers(modes: tuple[int, int, int]) -> tuple[Denoiser, ...]:
    """UL2's R (short spans), X (long or many) and S (the rest of the text) denoisers, each with its mode token's id."""
    regular, extreme, sequential = modes
    return (
        Denoiser(0.15, 3.0, regular),
        Denoiser(0.15, 8.0, regular),
        Denoiser(0.5, 3.0, extreme),
        Denoiser(0.5, 32.0, extreme),
        Denoiser(0.25, 0.0, sequential),
    )


def _random_lengths(total: int, parts: int, rng: np.random.Generator) -> Numbers:
    """(parts,) positive lengths that add up to `total`, every division as likely."""
    cuts = np.sort(rng.choice(np.arange(1, total), size=parts - 1, replace=False)) if parts > 1 else np.array([], int)
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)


def _window_length(context: int, denoisers: tuple[Denoiser, ...]) -> int:
    """The longest window that, with its sentinels written twice and a mode token, fits in context + 1 tokens."""
    for length in range(context, 3, -1):
        if all(length + 2 * d.spans(length) + (d.mode is not None) <= context + 1 for d in denoisers):
            return length
    raise AssertionError(f"a context of {context} is too short for span corruption")
