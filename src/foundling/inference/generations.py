"""A continuation in the making: what the engine keeps for each running sequence beside its place in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.inference.parameters import SamplingParams
from foundling.inference.penalties import edit
from foundling.inference.requests import LENGTH, STOP, Completion, Event
from foundling.inference.sampling import SamplingRows
from foundling.inference.scheduler import Sequence
from foundling.inference.structured.matcher import Matcher
from foundling.inference.text import StopText
from foundling.tokenization.tokenizer import Tokenizer


@dataclass(slots=True)
class PromptScores:
    """log p of the prompt's tokens from the second on, and the alternatives to each."""

    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Generation:
    """One of a request's n continuations.

    Args:
        seed: of this continuation's random numbers.
        stop_ids: all ids that end it.
        stream: whether every token gives an event.
        watcher: detokenizes along the way; None where the text is only wanted at the end.
        bad_words: token sequences that must not appear.
        matcher: the grammar's state.
        prompt_scores: filled when the prompt has been computed, if asked for; the n continuations share it.
        ending: why it ends as soon as the tokens that the grammar forced have been scored.
    """

    sequence: Sequence
    params: SamplingParams
    request_id: Any
    index: int
    seed: int
    stop_ids: frozenset[int]
    stream: bool
    watcher: StopText | None
    bad_words: list[list[int]] = field(default_factory=list)
    matcher: Matcher | None = None
    prompt_scores: PromptScores = field(default_factory=PromptScores)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    ending: str | None = None
    shown: str = ""  # text and tokens that no event has carried yet
    reported: int = 0
    drawn_from: tuple[int, Tensor] | None = (
        None  # the last hidden state drawn from, and the tokens that there were then
    )

    @property
    def prompt(self) -> list[int]:
        """The prompt's tokens."""
        return self.sequence.tokens[: self.sequence.prompt_length]

    @property
    def new_tokens(self) -> list[int]:
        """What has been generated so far."""
        return self.sequence.tokens[self.sequence.prompt_length :]

    @property
    def edits_logits(self) -> bool:
        """Whether anything but temperature and the filters after it changes the logits."""
        return self.matcher is not None or self.params.edits_logits

    def draft_room(self, most: int) -> int:
        """How many guesses can be of use: none under a grammar, and not beyond the limit."""
        sequence = self.sequence
        return 0 if self.matcher is not None else max(0, min(most, sequence.limit - len(sequence.tokens) - 1))

    def accept(self, token: int, logprob: float) -> str | None:
        """Append a token; returns the finish reason, if it ends here."""
        self.sequence.tokens.append(token)
        self.logprobs.append(logprob)
        if self.matcher is not None and token not in self.stop_ids:
            self.matcher.accept(token)
        return self._after(token)

    def force(self) -> list[int]:
        """Append the tokens that the grammar leaves no choice about; their scores follow with the next pass."""
        sequence = self.sequence
        if self.matcher is None:
            return []
        forced = self.matcher.forced(sequence.limit - len(sequence.tokens))
        for at, token in enumerate(forced):
            sequence.tokens.append(token)
            self.ending = self._after(token, last=at == len(forced) - 1)
            if self.ending:
                return forced[: at + 1]
        return forced

    def event(self, reason: str | None = None, completion: Completion | None = None) -> Event:
        """The event of everything that no event has carried yet."""
        first, text = self.reported, self.shown
        self.reported, self.shown = len(self.logprobs), ""
        top = self.top_logprobs[first:] if self.params.logprobs is not None else None
        tokens = self.new_tokens[first : self.reported]
        return Event(self.request_id, self.index, text, tokens, self.logprobs[first:], top, reason, completion)

    def completion(self, reason: str, tokenizer: Tokenizer | None, message: str = "") -> Completion:
        """What the caller gets."""
        tokens = self.new_tokens
        if self.watcher is not None:
            text = self.watcher.text
        else:
            text = _text(tokens, self.stop_ids, tokenizer) if tokenizer else ""
        params, prompt = self.params, self.prompt
        if params.echo and tokenizer:
            text = tokenizer.decode(prompt) + text
        if reason == LENGTH and self.matcher is not None and not self.matcher.complete:
            message = f"after {len(tokens)} tokens {self.matcher.missing(text)}"
        identity = (self.request_id, self.index, len(prompt))
        done = Completion(text, tokens, self.logprobs, reason, *identity, message=message)
        if params.logprobs is not None:
            done.top_logprobs = self.top_logprobs
        if params.prompt_logprobs is not None:
            done.prompt_logprobs = self.prompt_scores.logprobs
            done.prompt_top_logprobs = self.prompt_scores.top_logprobs
        return done

    def _after(self, token: int, last: bool = True) -> str | None:
        """Show the text of a token just appended; whether and why the continuation ends with it.

        Args:
            last: whether the grammar's state is that after this token (and not after some that follow it).
        """
        watcher, sequence = self.watcher, self.sequence
        if token in self.stop_ids:
            self.shown += watcher.flush() if watcher else ""
            return STOP
        ended = last and self.matcher is not None and self.matcher.ended
        reason = STOP if ended else LENGTH if len(sequence.tokens) >= sequence.limit else None
        if watcher is None:
            return reason
        self.shown += watcher.push(token)
        if watcher.stopped:
            return STOP
        if reason:
            self.shown += watcher.flush()
        return reason


@dataclass(frozen=True, slots=True)
class Position:
    """A place where a token is drawn: after `ahead` tokens of the sequence's draft."""

    generation: Generation
    ahead: int = 0

    @property
    def answer(self) -> list[int]:
        """The generated tokens before this place, the draft taken as given."""
        return self.generation.new_tokens + self.generation.sequence.draft[: self.ahead]


def sampling_rows(positions: list[Position]) -> SamplingRows:
    """The parameters of a batch of places, as arrays."""
    params = [position.generation.params for position in positions]
    indices = [len(position.generation.logprobs) + position.ahead for position in positions]
    return SamplingRows(
        temperature=np.array([p.temperature for p in params], dtype=np.float32),
        top_k=np.array([p.top_k for p in params], dtype=np.int64),
        top_p=np.array([p.top_p for p in params], dtype=np.float32),
        min_p=np.array([p.min_p for p in params], dtype=np.float32),
        typical_p=np.array([p.typical_p for p in params], dtype=np.float32),
        seeds=np.array([position.generation.seed for position in positions], dtype=np.uint64),
        indices=np.array(indices, dtype=np.int64),
    )


def edited(logits: Tensor, positions: list[Position]) -> Tensor:
    """The logits (n, vocab) after biases, penalties, bans and grammars; the same tensor if nobody asked for any."""
    asked = [row for row, position in enumerate(positions) if position.generation.edits_logits]
    if not asked:
        return logits
    logits = logits.clone()
    for row in asked:
        one, answer = positions[row].generation, positions[row].answer
        if one.params.edits_logits:
            logits[row] = edit(logits[row], one.params, one.prompt, answer, one.bad_words, one.stop_ids)
        if one.matcher is not None:
            logits[row].masked_fill_(~one.matcher.allowed().to(logits.device), -torch.inf)
    return logits


def bad_words(params: SamplingParams, tokenizer: Tokenizer | None) -> list[list[int]]:
    """Token sequences of everything that must not appear: each word as it is written, and after a space."""
    found = [list(ids) for ids in params.bad_words_ids]
    if params.bad_words:
        if tokenizer is None:
            raise FoundlingError("bad words need a tokenizer")
        found += [tokenizer.encode(prefix + word) for word in params.bad_words for prefix in ("", " ")]
    return found


def seed_of(seed: int, index: int) -> int:
    """The seed of a request's continuation number `index`."""
    return seed_for("sample", seed, index)


def _text(tokens: list[int], stop_ids: frozenset[int], tokenizer: Tokenizer) -> str:
    if tokens and tokens[-1] in stop_ids:
        tokens = tokens[:-1]
    return tokenizer.decode([token for token in tokens if token < tokenizer.vocab_size])
