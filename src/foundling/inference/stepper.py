"""One step of the engine: plan, compute, score, draw, finish. The engine's public face is `engine.py`."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from foundling.inference.generations import Generation, Position, edited, sampling_rows
from foundling.inference.requests import BAD_GRAMMAR, NAN_LOGITS, OUT_OF_BLOCKS, Completion, Event
from foundling.inference.runner import Pass, Runner
from foundling.inference.sampling import sample
from foundling.inference.scheduler import Plan, Scheduler, Sequence
from foundling.inference.scoring import Scoring, record, top_logprobs
from foundling.inference.speculative import Pace, Proposer
from foundling.inference.stats import Stats
from foundling.tokenization.tokenizer import Tokenizer


class Stepper:
    """Everything that is being generated or scored, and how a step carries it on.

    Attributes:
        generations, scorings: what is under way, by sequence id. A generation has a scoring beside it while its
            prompt, or what a grammar forced, is to be scored.
        finished: completions of generations that are not streamed, by sequence id.
        events: what the streamed ones brought since the engine's caller last asked.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, tokenizer: Tokenizer | None, proposer: Proposer | None
    ) -> None:
        self.scheduler, self.runner, self.tokenizer = scheduler, runner, tokenizer
        self.proposer, self.pace = proposer, Pace()
        self.generations: dict[int, Generation] = {}
        self.scorings: dict[int, Scoring] = {}
        self.finished: dict[int, Completion] = {}
        self.events: list[Event] = []
        self.stats = Stats()
        self._weight_bytes, self._cache_bytes = runner.weight_bytes, runner.cache_bytes_per_token

    def step(self) -> None:
        """Compute one step."""
        begin = time.perf_counter()
        plan = self.scheduler.schedule()
        generated = self.stats.generated_tokens
        self.runner.copy_blocks(plan.copies)
        ready: list[Generation] = []
        hidden: list[Tensor] = []
        for done in self.runner.run(plan.chunks):
            self._collect(done, ready, hidden)
            record(self.runner, done, self.scorings)
        self.scheduler.commit(plan)
        self.stats.count(plan)
        for sequence in plan.exhausted:
            self._exhausted(sequence)
        for chunk in plan.chunks:
            if chunk.complete and chunk.sequence.id in self.scorings:
                self._scored(self.scorings.pop(chunk.sequence.id))
        if ready:
            states = torch.cat(hidden)
            self._continue(ready, states, self.runner.head(states))
        self._propose(ready)
        seconds = time.perf_counter() - begin
        self.stats.seconds += seconds
        if _only_decodes(plan):
            self.stats.decode_seconds += seconds
            context = sum(chunk.start + chunk.length for chunk in plan.chunks)
            self.stats.decode_bytes += self._weight_bytes + self._cache_bytes * context
            if self.proposer is not None:
                self.pace.record(self.stats.generated_tokens - generated, seconds)

    def finish(self, generation: Generation, reason: str, message: str = "") -> None:
        """End a generation and release what it holds."""
        sequence = generation.sequence
        blocks, pool = sequence.blocks, self.scheduler.blocks
        if reason == NAN_LOGITS:
            pool.forget(blocks)
        self.scheduler.finish(sequence)
        if reason == NAN_LOGITS:
            self.runner.clear_blocks(pool.unused(blocks))
        del self.generations[sequence.id]
        self.scorings.pop(sequence.id, None)
        completion = generation.completion(reason, self.tokenizer, message)
        if generation.stream:
            self.events.append(generation.event(reason, completion))
        else:
            self.finished[sequence.id] = completion

    def _collect(self, done: Pass, ready: list[Generation], hidden: list[Tensor]) -> None:
        """The generations of a pass that are ready to draw, and the hidden states that predict their next tokens.

        One hidden state for each, and one more for each token of its draft.
        """
        rows: list[int] = []
        columns: list[int] = []
        for row, chunk in enumerate(done.chunks):
            generation = self.generations.get(chunk.sequence.id)
            if generation is None or not chunk.complete or generation.ending:
                continue
            ready.append(generation)
            del chunk.sequence.draft[chunk.draft :]  # what the budget left out
            rows += [row] * (chunk.draft + 1)
            columns += range(chunk.length - chunk.draft - 1, chunk.length)
        if len(rows) == done.hidden.shape[0] and done.hidden.shape[1] == 1:
            hidden.append(done.hidden[:, 0])
        elif rows:
            hidden.append(done.hidden[torch.tensor(rows), torch.tensor(columns)])

    def _scored(self, scoring: Scoring) -> None:
        """All targets of a scoring have been seen: a pair is done; a generation takes note and goes on or ends."""
        sequence = scoring.sequence
        generation = self.generations.get(sequence.id)
        if generation is None:
            self.scheduler.finish(sequence)
            return
        sequence.logits_from = None
        if scoring.first < sequence.prompt_length - 1:
            generation.prompt_scores.logprobs = scoring.logprobs
            generation.prompt_scores.top_logprobs = scoring.top_logprobs
            return
        generation.logprobs += scoring.logprobs
        generation.top_logprobs += scoring.top_logprobs
        if generation.ending:
            self.finish(generation, generation.ending)

    def _continue(self, ready: list[Generation], states: Tensor, logits: Tensor) -> None:
        """Draw the next tokens of each generation. states (positions, dim), logits (positions, vocab)"""
        places = [Position(one, ahead) for one in ready for ahead in range(len(one.sequence.draft) + 1)]
        total = logits.logsumexp(-1)
        broken = ~total.isfinite()
        if broken.any():  # a NaN, or an infinity, from the model: these rows end, the others go on
            logits = logits.masked_fill(broken[:, None], 0.0)
        scores = edited(logits, places)
        stuck = torch.zeros_like(broken) if scores is logits else scores.amax(-1) == -torch.inf
        tokens = sample(scores.masked_fill(stuck[:, None], 0.0) if stuck.any() else scores, sampling_rows(places))
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
        tops = _alternatives(places, logits, total)
        drawn = list(zip(tokens.tolist(), logprobs.tolist(), broken.tolist(), stuck.tolist(), strict=True))
        at = 0
        for generation in ready:
            count = len(generation.sequence.draft) + 1
            here = slice(at, at + count)
            self._accept(generation, states[here], drawn[here], [tops.get(row) for row in range(at, at + count)])
            at += count

    def _accept(
        self, generation: Generation, states: Tensor, drawn: list[Any], tops: list[dict[int, float] | None]
    ) -> None:
        """Take over what was drawn, for as long as the draft had guessed it."""
        sequence = generation.sequence
        draft, sequence.draft = sequence.draft, []
        reason: str | None = None
        for at, (token, logprob, is_broken, is_stuck) in enumerate(drawn):
            if is_broken:
                return self.finish(generation, NAN_LOGITS, "the model's logits are not finite")
            if is_stuck:
                error = generation.matcher.error if generation.matcher else ""
                return self.finish(generation, BAD_GRAMMAR, error or "no token is allowed here")
            self.stats.generated_tokens += 1
            top = tops[at]
            if top is not None:
                generation.top_logprobs.append(top)
            reason = generation.accept(token, logprob)
            if reason or at == len(draft) or token != draft[at]:
                break
            self.stats.accepted_tokens += 1
        self.stats.drafted_tokens += len(draft)
        sequence.cached = len(sequence.tokens) - 1
        generation.drawn_from = (len(sequence.tokens), states[at])
        if reason:
            return self.finish(generation, reason)
        self._force(generation)
        if generation.stream:
            self.events.append(generation.event())
        return None

    def _force(self, generation: Generation) -> None:
        """Append what the grammar leaves no choice about, to be computed and scored in one go."""
        sequence = generation.sequence
        first = len(sequence.tokens) - 1
        forced = generation.force()
        if forced:
            self.stats.forced_tokens += len(forced)
            sequence.logits_from = first
            self.scorings[sequence.id] = Scoring(sequence, first, forced, generation.params.logprobs or 0)

    def _propose(self, ready: list[Generation]) -> None:
        if self.proposer is None or not self.pace.speculate():
            return
        running = [one for one in ready if one.sequence.id in self.generations and one.sequence.slot]
        if running:
            self.proposer.propose(running)

    def _exhausted(self, sequence: Sequence) -> None:
        room = self.scheduler.blocks.n_blocks * self.scheduler.blocks.block_size
        message = f"{len(sequence.tokens)} tokens need more blocks than the cache has ({room} tokens)"
        assert sequence.id in self.generations, "pairs to score are checked against the cache's size"
        self.finish(self.generations[sequence.id], OUT_OF_BLOCKS, message)


def _alternatives(places: list[Position], logits: Tensor, total: Tensor) -> dict[int, dict[int, float]]:
    """The most probable tokens of the rows that ask for them, by row."""
    wanted = {row: place.generation.params.logprobs for row, place in enumerate(places)}
    asked = {row: k for row, k in wanted.items() if k is not None}
    if not asked:
        return {}
    rows = list(asked)
    tops = top_logprobs(logits[rows], total[rows], max(asked.values()))
    return {row: dict(list(top.items())[: asked[row]]) for row, top in zip(rows, tops, strict=True)}


def _only_decodes(plan: Plan) -> bool:
    return bool(plan.chunks) and all(chunk.length - chunk.draft == 1 for chunk in plan.chunks)
