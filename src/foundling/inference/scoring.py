"""Log-probabilities of given continuations, computed under the engine's scheduler so that beginnings are shared."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from foundling.inference.requests import Score
from foundling.inference.runner import Pass, Runner
from foundling.inference.scheduler import Chunk, Sequence

HEAD_VALUES = 1 << 22  # logits computed at a time: bounds memory where the vocabulary is large


@dataclass(eq=False, slots=True)
class Scoring:
    """One (context, continuation) pair being scored.

    `sequence` holds context + continuation without its last token; output number `len(context) - 1 + i` predicts
    token i of the continuation.
    """

    sequence: Sequence
    targets: list[int]
    logprobs: list[float] = field(default_factory=list)
    greedy: list[bool] = field(default_factory=list)

    @property
    def first(self) -> int:
        """Position of the output that predicts the first target."""
        assert self.sequence.logits_from is not None
        return self.sequence.logits_from

    def wanted(self, chunk: Chunk) -> range:
        """Positions of this chunk whose outputs are needed."""
        return range(max(self.first, chunk.start), chunk.start + chunk.length)

    def score(self) -> Score:
        """The result, once every target has been seen."""
        assert len(self.logprobs) == len(self.targets)
        return Score(float(sum(self.logprobs)), self.logprobs, all(self.greedy))


def token_logprobs(runner: Runner, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each target (n,) after its hidden state (n, dim), and whether it is the most probable token."""
    size = max(1, HEAD_VALUES // runner.module.config.vocab_size)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    pieces = [_piece(runner.head(part), wanted) for part, wanted in parts]
    return torch.cat([logprob for logprob, _ in pieces]), torch.cat([greedy for _, greedy in pieces])


def record(runner: Runner, done: Pass, scorings: dict[int, Scoring]) -> None:
    """Add what a pass says about the pairs in it. A pair that was preempted begins again."""
    found = [(row, chunk, scorings.get(chunk.sequence.id)) for row, chunk in enumerate(done.chunks)]
    work = [(row, chunk, scoring) for row, chunk, scoring in found if scoring is not None and scoring.wanted(chunk)]
    if not work:
        return
    rows, columns, targets = [], [], []
    for row, chunk, scoring in work:
        wanted = scoring.wanted(chunk)
        rows += [row] * len(wanted)
        columns += [position - chunk.start for position in wanted]
        targets += [scoring.targets[position - scoring.first] for position in wanted]
    hidden = done.hidden[torch.tensor(rows), torch.tensor(columns)]
    logprobs, greedy = token_logprobs(runner, hidden, torch.tensor(targets, device=hidden.device))
    values, flags, at = logprobs.tolist(), greedy.tolist(), 0
    for _, chunk, scoring in work:
        wanted = scoring.wanted(chunk)
        begin = wanted.start - scoring.first
        scoring.logprobs[begin:] = values[at : at + len(wanted)]
        scoring.greedy[begin:] = flags[at : at + len(wanted)]
        at += len(wanted)


def _piece(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return chosen - logits.logsumexp(-1), chosen >= logits.amax(-1)
