"""The engine: continuous batching of generation and scoring on one module, over one paged cache."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foundling.core.errors import FoundlingError
from foundling.inference.admission import PromptTooLong, check_length, check_prompt, check_tokens, default_room
from foundling.inference.blocks import BlockPool
from foundling.inference.embedding import embed
from foundling.inference.generations import Generation, sampling_rows, seed_of
from foundling.inference.requests import (
    CANCELLED,
    NAN_LOGITS,
    OUT_OF_BLOCKS,
    PROMPT_TOO_LONG,
    Completion,
    Event,
    Request,
    Score,
)
from foundling.inference.runner import Pass, Runner, inference_of
from foundling.inference.sampling import SamplingParams, sample
from foundling.inference.scheduler import Scheduler, Sequence
from foundling.inference.scoring import Scoring, record
from foundling.inference.stats import Stats
from foundling.inference.text import StopText
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "Event", "Request", "SamplingParams", "Score", "Stats"]

BLOCK_SIZE = 16


class Engine:
    """Generates and scores on `module` itself: no copy of the weights. Not thread-safe.

    Args:
        tokenizer: for text, stop strings and the default stop ids; None where only tokens matter.
        max_batch: most sequences computed together.
        max_tokens_in_cache: room for keys and values; default: max_batch full contexts, at most 1 GiB (but at least
            one full context).
        dtype: precision of forward passes and cache; None: the weights'.
        max_tokens_per_step, max_chunk: the scheduler's token budget, and how much of one prompt a step may take.
    """

    def __init__(
        self,
        module: LanguageModel,
        tokenizer: Tokenizer | None,
        *,
        max_batch: int = 64,
        max_tokens_in_cache: int | None = None,
        dtype: torch.dtype | None = None,
        max_tokens_per_step: int = 2048,
        max_chunk: int = 512,
    ) -> None:
        self.module, self.tokenizer = module, tokenizer
        room = max_tokens_in_cache or default_room(module, max_batch, dtype)
        blocks = BlockPool(-(-room // BLOCK_SIZE), BLOCK_SIZE)
        self.scheduler = Scheduler(blocks, max_batch, max(max_tokens_per_step, max_batch), max_chunk)
        self.longest = min(module.config.max_positions, blocks.n_blocks * BLOCK_SIZE)
        self.runner = Runner(module, blocks.n_blocks, BLOCK_SIZE, max_batch, self.longest, dtype)
        self._generations: dict[int, Generation] = {}  # by sequence id; so the next two
        self._scorings: dict[int, Scoring] = {}
        self._finished: dict[int, Completion] = {}
        self._ids = itertools.count(1)
        self._events: list[Event] = []
        self._stats = Stats()

    def generate(self, requests: Seq[Request]) -> list[Completion]:
        """Continue every request; n completions each, in order.

        A request that fails on the way (prompt too long, NaN logits, out of blocks) says so in its `finish_reason`
        and `message`; the others are not affected.

        Raises:
            FoundlingError: a prompt is empty or holds a token that the model does not know.
        """
        order: list[int | Completion] = []
        for request in requests:
            try:
                check_prompt(request.prompt_ids, self.module.config.vocab_size, self.longest)
            except PromptTooLong as error:
                order += [_refused(request, index, error) for index in range(request.params.n)]
                continue
            order += [generation.sequence.id for generation in self._enqueue(request, request.id, stream=False)]
        own = {item for item in order if isinstance(item, int)}
        with inference_of(self.module):
            while own & self._generations.keys():
                self._step()
        return [self._finished.pop(item) if isinstance(item, int) else item for item in order]

    def score(self, pairs: Seq[tuple[Seq[int], Seq[int]]]) -> list[Score]:
        """log p(continuation | context) of every (context, continuation) pair of token ids, in order.

        Beginnings that pairs share are computed once. An empty context stands for the tokenizer's end-of-text token.

        Raises:
            FoundlingError: a pair is longer than the model's context or the cache, or its continuation is empty.
        """
        scorings = [self._scoring(context, continuation) for context, continuation in pairs]
        for scoring in scorings:
            self._scorings[scoring.sequence.id] = scoring
            self.scheduler.add(scoring.sequence)
        own = {scoring.sequence.id for scoring in scorings}
        with inference_of(self.module):
            while own & self._scorings.keys():
                self._step()
        return [scoring.score() for scoring in scorings]

    def embed(self, texts: Seq[str]) -> npt.NDArray[np.float32]:
        """Mean of the final hidden states of each text's tokens, scaled to length 1: (n, dim)."""
        if self.tokenizer is None:
            raise FoundlingError("cannot embed texts without a tokenizer")
        ids = self.tokenizer.encode_batch(texts)
        for prompt in ids:
            check_prompt(prompt or [self.tokenizer.eot_id], self.module.config.vocab_size, self.longest)
        with inference_of(self.module):
            return embed(self.runner, [prompt or [self.tokenizer.eot_id] for prompt in ids])

    def add(self, request: Request) -> Any:
        """Queue a request whose tokens `step` will deliver; returns its id (the request's own, or a new number).

        Raises:
            FoundlingError: the prompt is empty, too long (PromptTooLong), or holds an unknown token.
        """
        check_prompt(request.prompt_ids, self.module.config.vocab_size, self.longest)
        request_id = next(self._ids) if request.id is None else request.id
        if any(generation.request_id == request_id and generation.stream for generation in self._generations.values()):
            raise FoundlingError(f"request id {request_id!r} is in use", "each running request has its own id")
        self._enqueue(request, request_id, stream=True)
        return request_id

    def step(self) -> list[Event]:
        """Compute one step; the events of requests that were added, one per new token and one at each end."""
        with inference_of(self.module):
            self._step()
        events, self._events = self._events, []
        return events

    def cancel(self, request_id: Any) -> None:
        """End an added request and free its blocks; the next step brings its end. Unknown ids are ignored."""
        for generation in list(self._generations.values()):
            if generation.stream and generation.request_id == request_id:
                self._finish(generation, CANCELLED)

    def stats(self) -> Stats:
        """What the engine has done and holds now."""
        blocks = self.scheduler.blocks
        self._stats.running, self._stats.waiting = len(self.scheduler.running), len(self.scheduler.waiting)
        self._stats.preemptions = self.scheduler.preemptions
        self._stats.cache_tokens = blocks.n_blocks * BLOCK_SIZE
        self._stats.cache_used = (blocks.n_blocks - blocks.n_free) * BLOCK_SIZE
        return self._stats

    def weights_changed(self) -> None:
        """Forget all cached keys and values: they were computed with other weights. Running requests are recomputed."""
        self.scheduler.restart()

    def _enqueue(self, request: Request, request_id: Any, stream: bool) -> list[Generation]:
        params, prompt = request.params, list(request.prompt_ids)
        own = self.tokenizer.stop_ids if self.tokenizer and not params.ignore_eos else ()
        stop_ids = frozenset((*params.stop_ids, *own))
        seed = secrets.randbits(63) if params.seed is None else params.seed
        watch = self.tokenizer is not None and (stream or bool(params.stop))
        if params.stop and self.tokenizer is None:
            raise FoundlingError("stop strings need a tokenizer")
        made = []
        for index in range(params.n):
            limit = min(len(prompt) + params.max_tokens, self.longest)
            sequence = Sequence(next(self._ids), list(prompt), limit)
            watcher = StopText(self.tokenizer, params.stop) if watch and self.tokenizer else None
            generation = Generation(
                sequence, params, request_id, index, seed_of(seed, index), stop_ids, stream, watcher
            )
            self._generations[sequence.id] = generation
            self.scheduler.add(sequence)
            made.append(generation)
        return made

    def _scoring(self, context: Seq[int], continuation: Seq[int]) -> Scoring:
        if not context and self.tokenizer is not None:
            context = [self.tokenizer.eot_id]
        tokens = [*context, *continuation]
        if not context or not continuation:
            raise FoundlingError("a pair to score has an empty context or continuation")
        check_tokens(tokens, self.module.config.vocab_size)
        check_length(len(tokens) - 1, self.longest + 1)
        sequence = Sequence(next(self._ids), tokens[:-1], len(tokens), logits_from=len(context) - 1)
        return Scoring(sequence, list(continuation))

    def _step(self) -> None:
        begin = time.perf_counter()
        plan = self.scheduler.schedule()
        self.runner.copy_blocks(plan.copies)
        ready: list[Generation] = []
        hidden: list[Tensor] = []
        for done in self.runner.run(plan.chunks):
            self._collect(done, ready, hidden)
            record(self.runner, done, self._scorings)
        self.scheduler.commit(plan)
        self._stats.count(plan)
        for sequence in plan.exhausted:
            self._exhausted(sequence)
        for chunk in plan.chunks:
            if chunk.complete and chunk.sequence.id in self._scorings:
                self.scheduler.finish(chunk.sequence)
                del self._scorings[chunk.sequence.id]
        if ready:
            self._continue(ready, self.runner.head(torch.cat(hidden)))
        self._stats.seconds += time.perf_counter() - begin

    def _collect(self, done: Pass, ready: list[Generation], hidden: list[Tensor]) -> None:
        """The generations of a pass that are ready for their next token, and the hidden states that predict it."""
        rows = [
            row for row, chunk in enumerate(done.chunks) if chunk.complete and chunk.sequence.id in self._generations
        ]
        if not rows:
            return
        ready += [self._generations[done.chunks[row].sequence.id] for row in rows]
        if done.hidden.shape[1] == 1 and len(rows) == len(done.chunks):
            hidden.append(done.hidden[:, 0])
        else:
            hidden.append(done.hidden[rows, [done.chunks[row].length - 1 for row in rows]])

    def _continue(self, ready: list[Generation], logits: Tensor) -> None:
        """Sample the next token of each generation. logits (n, vocab)"""
        total = logits.logsumexp(-1)
        broken = ~total.isfinite()
        if broken.any():  # a NaN, or an infinity, from the model: these rows end, the others go on
            logits = logits.masked_fill(broken[:, None], 0.0)
        tokens = sample(logits, sampling_rows(ready))
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
        self._add_alternatives(ready, logits, total)
        rows = zip(ready, tokens.tolist(), logprobs.tolist(), broken.tolist(), strict=True)
        for generation, token, logprob, is_broken in rows:
            if is_broken:
                self._finish(generation, NAN_LOGITS, "the model's logits are not finite")
                continue
            self._stats.generated_tokens += 1
            text, reason = generation.accept(token, logprob)
            if reason:
                self._finish(generation, reason, shown=text)
            elif generation.stream:
                self._events.append(generation.event(text, None, None))

    def _add_alternatives(self, ready: list[Generation], logits: Tensor, total: Tensor) -> None:
        asked = [row for row, generation in enumerate(ready) if generation.params.logprobs is not None]
        if not asked:
            return
        most = min(max(ready[row].params.logprobs or 0 for row in asked), logits.shape[-1])
        values, tokens = (logits[asked] - total[asked, None]).topk(most)
        for row, its_values, its_tokens in zip(asked, values.tolist(), tokens.tolist(), strict=True):
            k = ready[row].params.logprobs
            ready[row].top_logprobs.append(dict(zip(its_tokens[:k], its_values[:k], strict=True)))

    def _finish(self, generation: Generation, reason: str, message: str = "", shown: str | None = None) -> None:
        """End a generation. `shown`: text of its last token, where it ends with one."""
        sequence = generation.sequence
        blocks = sequence.blocks
        if reason == NAN_LOGITS:
            self.scheduler.blocks.forget(blocks)
        self.scheduler.finish(sequence)
        if reason == NAN_LOGITS:
            self.runner.clear_blocks(self.scheduler.blocks.unused(blocks))
        del self._generations[sequence.id]
        completion = generation.completion(reason, self.tokenizer, message)
        if not generation.stream:
            self._finished[sequence.id] = completion
        elif shown is not None:
            self._events.append(generation.event(shown, reason, completion))
        else:
            event = Event(generation.request_id, generation.index, finish_reason=reason, completion=completion)
            self._events.append(event)

    def _exhausted(self, sequence: Sequence) -> None:
        room = self.scheduler.blocks.n_blocks * BLOCK_SIZE
        message = f"{len(sequence.tokens)} tokens need more blocks than the cache has ({room} tokens)"
        assert sequence.id in self._generations, "pairs to score are checked against the cache's size"
        self._finish(self._generations[sequence.id], OUT_OF_BLOCKS, message)


def _refused(request: Request, index: int, error: PromptTooLong) -> Completion:
    prompt = len(request.prompt_ids)
    return Completion("", [], [], PROMPT_TOO_LONG, request.id, index, prompt, message=str(error))
