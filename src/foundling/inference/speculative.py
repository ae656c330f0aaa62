"""Speculative decoding: guess the next tokens cheaply, check them all in one pass (Leviathan et al. 2023,
arXiv:2211.17192).

Exact by construction: at every position the engine draws the token that it would have drawn anyway (its random number
is a function of the seed and the index), and goes on through the guesses for as long as they equal what was drawn. So
the same tokens come out with and without speculation, not only the same distribution, under every sampling parameter.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

import torch

from foundling.core.errors import FoundlingError
from foundling.inference.generations import Generation, Position, sampling_rows
from foundling.inference.runner import Runner
from foundling.inference.sampling import sample
from foundling.inference.scheduler import Chunk
from foundling.models.draft_head import DraftHead
from foundling.models.language_model import LanguageModel


class Proposer(Protocol):
    """Guesses tokens. `most` is how many it guesses; the engine gives each sequence that much room ahead."""

    most: int

    def propose(self, generations: Seq[Generation]) -> None:
        """Set `sequence.draft` of each generation (no longer than its `draft_room(most)`)."""
        ...

    def attach(self, runner: Runner, n_blocks: int, block_size: int, max_batch: int, longest: int) -> None:
        """Prepare to work beside an engine."""
        ...

    def weights_changed(self) -> None:
        """The engine's weights are others now."""
        ...


class NgramLookup:
    """Guesses that what followed the last few tokens before will follow them again (prompt lookup decoding).

    Args:
        most: tokens to guess.
        longest: tokens that have to agree, at best; shorter agreement down to `shortest` counts too.
    """

    def __init__(self, most: int = 5, longest: int = 3, shortest: int = 2) -> None:
        if not (most >= 1 and 1 <= shortest <= longest):
            raise FoundlingError(f"lookup of {shortest} to {longest} tokens, guessing {most}", "expected 1 or more")
        self.most, self.longest, self.shortest = most, longest, shortest

    def attach(self, runner: Runner, n_blocks: int, block_size: int, max_batch: int, longest: int) -> None:
        """Nothing to prepare."""

    def weights_changed(self) -> None:
        """Nothing is kept."""

    def propose(self, generations: Seq[Generation]) -> None:
        """Guess from each sequence's own tokens."""
        for generation in generations:
            tokens = generation.sequence.tokens
            generation.sequence.draft = self.guess(tokens, generation.draft_room(self.most))

    def guess(self, tokens: Seq[int], most: int) -> list[int]:
        """What followed the latest earlier occurrence of the longest possible ending."""
        for size in range(min(self.longest, len(tokens) - 1), self.shortest - 1, -1):
            ending, last = list(tokens[-size:]), tokens[-1]
            for end in range(len(tokens) - 1, size - 1, -1):  # end: one past an earlier occurrence
                if tokens[end - 1] == last and list(tokens[end - size : end]) == ending:
                    return list(tokens[end : end + most])
        return []


class DraftModel:
    """Guesses with a small model of the same vocabulary, drawing with the engine's own random numbers.

    Args:
        module: the small model.
        most: tokens to guess.
    """

    def __init__(self, module: LanguageModel, most: int = 4) -> None:
        if most < 1:
            raise FoundlingError(f"a draft of {most} tokens", "expected 1 or more")
        self.module, self.most = module, most
        self._runner: Runner | None = None
        self._computed: dict[tuple[int, int], int] = {}  # (sequence, admission) -> tokens in the draft's cache

    def attach(self, runner: Runner, n_blocks: int, block_size: int, max_batch: int, longest: int) -> None:
        """Make a cache with the engine's own block tables."""
        ours, theirs = runner.module.config.vocab_size, self.module.config.vocab_size
        if ours != theirs:
            raise FoundlingError(f"the draft model knows {theirs} tokens", f"the model itself knows {ours}")
        self._runner = Runner(self.module, n_blocks, block_size, max_batch, longest, None)

    def weights_changed(self) -> None:
        """Compute every running sequence again."""
        self._computed.clear()

    def propose(self, generations: Seq[Generation]) -> None:
        """Draw up to `most` tokens for each generation, all of them in step."""
        live = {(one.sequence.id, one.sequence.admissions) for one in generations}
        self._computed = {key: value for key, value in self._computed.items() if key in live}
        for generation in generations:
            generation.sequence.draft = []
        for ahead in range(self.most):
            drawing = [one for one in generations if one.draft_room(self.most) > ahead]
            if drawing:
                self._draw(drawing, ahead)

    def _draw(self, generations: Seq[Generation], ahead: int) -> None:
        assert self._runner is not None, "attach comes first"
        by_id = {one.sequence.id: one for one in generations}
        chunks = [self._chunk(one) for one in generations]
        for done in self._runner.run(chunks):
            last = [chunk.length - 1 for chunk in done.chunks]
            logits = self._runner.head(done.hidden[torch.arange(len(last)), last])
            positions = [Position(by_id[chunk.sequence.id], ahead) for chunk in done.chunks]
            for position, token in zip(positions, sample(logits, sampling_rows(positions)).tolist(), strict=True):
                position.generation.sequence.draft.append(token)

    def _chunk(self, generation: Generation) -> Chunk:
        """What the draft's cache lacks: after a check it holds the tokens that were right, and not the last one."""
        sequence = generation.sequence
        key = (sequence.id, sequence.admissions)
        drafted = len(sequence.draft)
        end = len(sequence.tokens) + drafted
        start = end - 1 if drafted else min(self._computed.get(key, 0), len(sequence.tokens) - 1)
        self._computed[key] = end
        return Chunk(sequence, start, end - start, drafted)


class HeadDraft:
    """Guesses with the draft head that was trained for the model (`foundling distill --draft-tokens`).

    Args:
        head: see `models/draft_head.py`.
    """

    def __init__(self, head: DraftHead) -> None:
        self.head, self.most = head, head.most
        self._runner: Runner | None = None

    def attach(self, runner: Runner, n_blocks: int, block_size: int, max_batch: int, longest: int) -> None:
        """Move the head to where the model is."""
        self._runner = runner
        self.head.to(runner.device, runner.dtype)

    def weights_changed(self) -> None:
        """Nothing is kept; but the head foresees the weights that it was trained for, and may guess less well."""

    def propose(self, generations: Seq[Generation]) -> None:
        """Draw up to `most` tokens for each generation from the hidden state of its last token, all of them in step."""
        assert self._runner is not None, "attach comes first"
        live: list[Generation] = []
        states: list[torch.Tensor] = []
        for one in generations:
            one.sequence.draft = []
            known, state = one.drawn_from or (0, None)
            if state is not None and known == len(one.sequence.tokens):  # else a grammar has gone on without it
                live.append(one)
                states.append(state)
        for ahead in range(self.most):
            kept = [row for row, one in enumerate(live) if one.draft_room(self.most) > ahead]
            live, states = [live[row] for row in kept], [states[row] for row in kept]
            if not live:
                return
            last = [(one.sequence.draft or one.sequence.tokens)[-1] for one in live]
            embedded = self._runner.module.embedding(torch.tensor(last, device=self._runner.device))
            with self._runner.precision():
                moved = self.head(torch.stack(states), embedded)
            tokens = sample(self._runner.head(moved), sampling_rows([Position(one, ahead) for one in live])).tolist()
            for one, token in zip(live, tokens, strict=True):
                one.sequence.draft.append(token)
            states = list(moved)


class Pace:
    """Decides whether guessing pays, by the clock: tokens per second with and without it, tried in turns."""

    TRIAL, REST = 8, 256  # steps of each trial; steps between trials

    def __init__(self) -> None:
        self.rates = {True: 0.0, False: 0.0}  # tokens per second of the last trials
        self._tokens, self._seconds = 0, 0.0
        self._step = 0

    def speculate(self) -> bool:
        """Whether the next step should guess."""
        at = self._step % (2 * self.TRIAL + self.REST)
        if at < self.TRIAL:
            return True
        return False if at < 2 * self.TRIAL else self.rates[True] > self.rates[False]

    def record(self, tokens: int, seconds: float) -> None:
        """A decoding step has brought so many tokens in so many seconds."""
        at = self._step % (2 * self.TRIAL + self.REST)
        self._tokens, self._seconds = self._tokens + tokens, self._seconds + seconds
        self._step += 1
        if at in (self.TRIAL - 1, 2 * self.TRIAL - 1):
            self.rates[at < self.TRIAL] = self._tokens / self._seconds
        if at in (self.TRIAL - 1, 2 * self.TRIAL - 1) or at >= 2 * self.TRIAL:
            self._tokens, self._seconds = 0, 0.0

    @property
    def speedup(self) -> float | None:
        """Measured tokens per second with guessing over those without; None before both were tried."""
        return self.rates[True] / self.rates[False] if self.rates[True] and self.rates[False] else None
