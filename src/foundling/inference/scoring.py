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
    """Tokens of one sequence whose log-probabilities are wanted.

    Args:
        first: position of the output that predicts the first target.
        targets: the tokens, one for each output from there on.
        alternatives: how many most probable tokens to report beside each.
    """

    sequence: Sequence
    first: int
    targets: list[int]
    alternatives: int = 0
    logprobs: list[float] = field(default_factory=list)
    greedy: list[bool] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)

    def wanted(self, chunk: Chunk) -> range:
        """Positions of this chunk whose outputs are needed."""
        end = min(chunk.start + chunk.length, self.first + len(self.targets))
        return range(max(self.first, chunk.start), end)

    def score(self) -> Score:
        """The result, once every target has been seen."""
        assert len(self.logprobs) == len(self.targets)
        return Score(float(sum(self.logprobs)), self.logprobs, all(self.greedy))


def record(runner: Runner, done: Pass, scorings: dict[int, Scoring]) -> None:
    """Add what a pass says about the sequences in it. One that was preempted begins again."""
    found = [(row, chunk, scorings.get(chunk.sequence.id)) for row, chunk in enumerate(done.chunks)]
    work = [(row, chunk, scoring) for row, chunk, scoring in found if scoring is not None and scoring.wanted(chunk)]
    if not work:
        return
    rows: list[int] = []
    columns: list[int] = []
    owners: list[tuple[Scoring, int]] = []  # whose output it is, and the number of its target
    for row, chunk, scoring in work:
        wanted = scoring.wanted(chunk)
        rows += [row] * len(wanted)
        columns += [position - chunk.start for position in wanted]
        owners += [(scoring, position - scoring.first) for position in wanted]
        begin = wanted.start - scoring.first
        del scoring.logprobs[begin:], scoring.greedy[begin:], scoring.top_logprobs[begin:]
    hidden = done.hidden[torch.tensor(rows), torch.tensor(columns)]
    size = max(1, HEAD_VALUES // runner.module.config.vocab_size)
    for at in range(0, len(owners), size):
        _append(runner.head(hidden[at : at + size]), owners[at : at + size])


def _append(logits: Tensor, owners: list[tuple[Scoring, int]]) -> None:
    """Add the scores of targets after logits (n, vocab)."""
    targets = torch.tensor([scoring.targets[number] for scoring, number in owners], device=logits.device)
    logprobs, greedy = _piece(logits, targets)
    for (scoring, _), logprob, is_greedy in zip(owners, logprobs.tolist(), greedy.tolist(), strict=True):
        scoring.logprobs.append(logprob)
        scoring.greedy.append(is_greedy)
    most = max(scoring.alternatives for scoring, _ in owners)
    tops = top_logprobs(logits, logits.logsumexp(-1), most) if most else [{}] * len(owners)
    for (scoring, _), top in zip(owners, tops, strict=True):
        scoring.top_logprobs.append(dict(list(top.items())[: scoring.alternatives]))


def top_logprobs(logits: Tensor, total: Tensor, k: int) -> list[dict[int, float]]:
    """The k most probable tokens of each row and their log p. logits (n, vocab), total (n,) their logsumexp."""
    values, tokens = (logits - total[:, None]).topk(min(k, logits.shape[-1]))
    return [dict(zip(*pair, strict=True)) for pair in zip(tokens.tolist(), values.tolist(), strict=True)]


def _piece(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return chosen - logits.logsumexp(-1), chosen >= logits.amax(-1)
