"""The engine: continuous batching of generation and scoring on one module, over one paged cache."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foundling.core.errors import FoundlingError
from foundling.inference.admission import PromptTooLong, check_length, check_prompt, check_tokens, default_room
from foundling.inference.blocks import BlockPool, chain_hash
from foundling.inference.embedding import embed
from foundling.inference.generations import Generation, PromptScores, bad_words, seed_of
from foundling.inference.requests import (
    BAD_GRAMMAR,
    CANCELLED,
    PROMPT_TOO_LONG,
    Completion,
    Event,
    Request,
    Score,
)
from foundling.inference.runner import Runner, inference_of
from foundling.inference.sampling import SamplingParams
from foundling.inference.scheduler import Scheduler, Sequence
from foundling.inference.scoring import Scoring
from foundling.inference.scoring_trees import TreeScorer, plan, suits
from foundling.inference.speculative import Proposer
from foundling.inference.stats import Stats
from foundling.inference.stepper import Stepper
from foundling.inference.structured.grammar import BadGrammar, Grammar
from foundling.inference.structured.matcher import MatcherFactory
from foundling.inference.text import StopText
from foundling.models.language_model import LanguageModel, require_left_to_right
from foundling.models.pooling import PoolingConfig
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
        speculate: guesses tokens ahead (`speculative.py`); used while it is measured to pay.
        int8_cache: keep keys and values in 8 bits (`kv_int8.py`).
        batch_invariant: the same tokens and log-probabilities to the last bit, alone, in any batch, and whatever was
            cached. Free where the native kernels run; elsewhere sequences are computed one by one.
        pooling: gives, when first needed, how `embed` makes a vector of a text.
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
        speculate: Proposer | None = None,
        int8_cache: bool = False,
        batch_invariant: bool = False,
        pooling: Callable[[], PoolingConfig] = PoolingConfig,
    ) -> None:
        self.module, self.tokenizer, self._read_pooling = module, tokenizer, pooling
        room = max_tokens_in_cache or default_room(module, max_batch, dtype)
        n_blocks = -(-room // BLOCK_SIZE)
        self.longest = min(module.config.max_positions, n_blocks * BLOCK_SIZE)
        self.runner = Runner(module, n_blocks, BLOCK_SIZE, max_batch, self.longest, dtype, int8_cache, batch_invariant)
        if speculate is not None and self.runner.recurrent:
            raise FoundlingError("a model with recurrent state cannot speculate", "its state cannot be taken back")
        if speculate is not None:
            speculate.attach(self.runner, n_blocks, BLOCK_SIZE, max_batch, self.longest)
        self.scheduler = Scheduler(
            BlockPool(n_blocks, BLOCK_SIZE),
            max_batch,
            max(max_tokens_per_step, max_batch),
            max_chunk,
            share=not self.runner.recurrent,
            lookahead=speculate.most + 1 if speculate is not None else 0,
        )
        self._stepper = Stepper(self.scheduler, self.runner, tokenizer, speculate)
        self._matchers = MatcherFactory(tokenizer, module.config.vocab_size)
        self._ids = itertools.count(1)
        self._roots: dict[str | None, bytes] = {None: b""}  # of the cache, by adapter

    @cached_property
    def pooling(self) -> PoolingConfig:
        """How `embed` makes a vector of a text; a longest text is never longer than the model can read.

        Raises:
            FoundlingError: the model's directory asks for what is not supported.
        """
        config = self._read_pooling()
        longest = None if config.max_tokens is None else min(config.max_tokens, self.longest)
        return config.model_copy(update={"max_tokens": longest})

    def generate(self, requests: Seq[Request]) -> list[Completion]:
        """Continue every request; n completions each, in order.

        A request that fails (prompt too long, unusable grammar, NaN logits, out of blocks) says so in `finish_reason`
        and `message`; the others are not affected.

        Raises:
            FoundlingError: a prompt is empty or holds a token that the model does not know.
        """
        order: list[int | Completion] = []
        for request in requests:
            try:
                order += [one.sequence.id for one in self._enqueue(request, request.id, stream=False)]
            except (PromptTooLong, BadGrammar) as error:
                order += [_refused(request, index, error) for index in range(request.params.n)]
        own = {item for item in order if isinstance(item, int)}
        finished = self._stepper.finished
        with inference_of(self.module):
            while not own <= finished.keys():
                self._stepper.step()
        return [finished.pop(item) if isinstance(item, int) else item for item in order]

    def score(self, pairs: Seq[tuple[Seq[int], Seq[int]]], adapter: str | None = None) -> list[Score]:
        """log p(continuation | context) of every (context, continuation) pair of token ids, in order.

        Beginnings that pairs share are computed once. An empty context stands for the tokenizer's end-of-text token;
        the context of an encoder-decoder is what its encoder reads.

        Raises:
            FoundlingError: a pair is longer than the model's context or the cache, or its continuation is empty.
        """
        found = dict(self.score_each(pairs, adapter=adapter))
        return [found[index] for index in range(len(pairs))]

    def score_each(
        self,
        pairs: Seq[tuple[Seq[int], Seq[int]]],
        wanted: frozenset[int] | None = None,
        adapter: str | None = None,
    ) -> Iterator[tuple[int, Score]]:
        """(index, score) of the pairs as they are done. See `score`.

        Args:
            wanted: the indices to score; None: all. The others still shape the passes, so that a score is the same to
                the last bit whether or not they were scored before.
            adapter: which of the engine's adapters scores; None: the model itself.
        """
        require_left_to_right(self.module.config)
        self._require(adapter)
        checked = [self._checked(context, continuation) for context, continuation in pairs]
        groups, rest = plan(checked) if adapter is None and suits(self.runner) else ([], list(range(len(pairs))))
        scorer = TreeScorer(self.runner)
        begin = time.perf_counter()
        for index, score in scorer.score(groups, wanted):
            self._stepper.stats.count_scored(scorer.passes, scorer.tokens, time.perf_counter() - begin)
            scorer.passes = scorer.tokens = 0
            yield index, score
            begin = time.perf_counter()
        yield from self._score_paged(checked, [i for i in rest if wanted is None or i in wanted], adapter)

    def embed(self, texts: Seq[str]) -> npt.NDArray[np.float32]:
        """A vector of each text, as its model's pooling says (else the mean, scaled to length 1): (n, dim).

        Texts are framed by the tokenizer's own template and, where the pooling names a length, cut to it.
        """
        if self.tokenizer is None:
            raise FoundlingError("cannot embed texts without a tokenizer")
        prompts = [
            ids or [self.tokenizer.eot_id] for ids in self.tokenizer.encode_framed(texts, self.pooling.max_tokens)
        ]
        for prompt in prompts:
            check_tokens(prompt, self.module.config.vocab_size)
            check_length(len(prompt), self.longest + 1)  # nothing is to follow
        with inference_of(self.module), self.runner.precision():
            return embed(self.module, prompts, self.pooling)

    def compile(self, grammar: Grammar) -> None:
        """Compile a grammar ahead of the request that has it, so that no step waits for it. From any thread.

        Raises:
            BadGrammar: it cannot be used with this tokenizer.
        """
        self._matchers.matcher(grammar)

    def add(self, request: Request) -> Any:
        """Queue a request whose tokens `step` will deliver; returns its id (the request's own, or a new number).

        Raises:
            FoundlingError: the prompt is empty, too long (PromptTooLong), or holds an unknown token; the grammar cannot
                be used (BadGrammar).
        """
        request_id = next(self._ids) if request.id is None else request.id
        if self._streamed(request_id):
            raise FoundlingError(f"request id {request_id!r} is in use", "each running request has its own id")
        self._enqueue(request, request_id, stream=True)
        return request_id

    def step(self) -> list[Event]:
        """Compute one step; the events of requests that were added, one per new token and one at each end."""
        with inference_of(self.module):
            self._stepper.step()
        events, self._stepper.events = self._stepper.events, []
        return events

    def cancel(self, request_id: Any) -> None:
        """End an added request and free its blocks; the next step brings its end. Unknown ids are ignored."""
        for generation in self._streamed(request_id):
            self._stepper.finish(generation, CANCELLED)

    def stats(self) -> Stats:
        """What the engine has done and holds now."""
        stats, blocks = self._stepper.stats, self.scheduler.blocks
        stats.running, stats.waiting = len(self.scheduler.running), len(self.scheduler.waiting)
        stats.preemptions = self.scheduler.preemptions
        stats.speculation_speedup = self._stepper.pace.speedup
        stats.cache_tokens = blocks.n_blocks * BLOCK_SIZE
        stats.cache_used = (blocks.n_blocks - blocks.n_free) * BLOCK_SIZE
        return stats

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that requests may ask for."""
        return self.runner.adapters.names

    def load_adapter(self, name: str, directory: Path | str) -> None:
        """Load a LoRA (or rsLoRA, DoRA) adapter from PEFT's directory, for requests that name it.

        Raises:
            FoundlingError: the name is taken, or the adapter does not fit this model.
        """
        self.runner.adapters.load(name, directory)
        self._roots[name] = b"adapter %d" % next(self._ids)  # another one under this name gets another cache

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            FoundlingError: it is not loaded, or requests are using it.
        """
        self._require(name)
        users = sum(one.adapter == name for one in (*self.scheduler.running, *self.scheduler.waiting))
        if users:
            raise FoundlingError(f"adapter {name!r} is in use by {users} sequences", fix="cancel them, or wait")
        self.runner.adapters.unload(name)
        del self._roots[name]

    def clear_cache(self) -> None:
        """Forget all cached keys and values, and encoders' outputs. Running requests are recomputed."""
        self.scheduler.restart()
        self.runner.encodings.clear()

    def weights_changed(self) -> None:
        """Forget what was computed with other weights: the cache, and the kernels' own form of the weights."""
        self.clear_cache()
        self.runner.weights_changed()
        if self._stepper.proposer is not None:
            self._stepper.proposer.weights_changed()

    def _streamed(self, request_id: Any) -> list[Generation]:
        running = self._stepper.generations.values()
        return [one for one in running if one.stream and one.request_id == request_id]

    def _enqueue(self, request: Request, request_id: Any, stream: bool) -> list[Generation]:
        params, prompt = request.params, list(request.prompt_ids)
        require_left_to_right(self.module.config)
        check_prompt(prompt, self.module.embedding.num_embeddings, self.longest)
        self._require(request.adapter)
        self._check_source(request)
        if params.stop and self.tokenizer is None:
            raise FoundlingError("stop strings need a tokenizer")
        matchers = [self._matchers.matcher(params.grammar) if params.grammar else None for _ in range(params.n)]
        own = self.tokenizer.stop_ids if self.tokenizer and not params.ignore_eos else ()
        seed = secrets.randbits(63) if params.seed is None else params.seed
        watch = stream or bool(params.stop)
        banned, scores = bad_words(params, self.tokenizer), PromptScores()
        made = []
        for index, matcher in enumerate(matchers):
            limit = min(len(prompt) + params.max_tokens, self.longest)
            sequence = self._sequence(prompt, limit, None, request.adapter, request.encoder_ids)
            one = Generation(
                sequence,
                params,
                request_id,
                index,
                seed_of(seed, index),
                stop_ids=frozenset((*params.stop_ids, *own)),
                stream=stream,
                watcher=StopText(self.tokenizer, params.stop) if watch and self.tokenizer else None,
                bad_words=banned,
                matcher=matcher,
                prompt_scores=scores,
            )
            if params.prompt_logprobs is not None and index == 0 and len(prompt) > 1:
                sequence.logits_from = 0
                self._stepper.scorings[sequence.id] = Scoring(sequence, 0, prompt[1:], params.prompt_logprobs)
            made.append(one)
        for one in made:
            self._stepper.generations[one.sequence.id] = one
            self.scheduler.add(one.sequence)
        return made

    def _require(self, adapter: str | None) -> None:
        if adapter is not None:
            self.runner.adapters.require(adapter)

    def _sequence(
        self, tokens: Seq[int], limit: int, logits_from: int | None, adapter: str | None, source: Seq[int]
    ) -> Sequence:
        """A sequence whose keys and values are shared only with those of the same adapter and source."""
        root = self._roots[adapter]
        if source:
            root = chain_hash(root, source)
        return Sequence(next(self._ids), list(tokens), limit, logits_from, root, adapter, tuple(source))

    def _check_source(self, request: Request) -> None:
        family, source = self.module.config.family, request.encoder_ids
        if self.module.encoder is None and source:
            raise FoundlingError(f"a {family} model has no encoder", "encoder_ids are for encoder-decoders")
        if self.module.encoder is not None:
            if not source:
                raise FoundlingError(f"a {family} model reads its input through an encoder", "encoder_ids are empty")
            check_prompt(source, self.module.config.vocab_size, self.longest)

    def _checked(self, context: Seq[int], continuation: Seq[int]) -> tuple[Seq[int], Seq[int]]:
        if not context and self.tokenizer is not None:
            context = [self.tokenizer.eot_id]
        if not context or not continuation:
            raise FoundlingError("a pair to score has an empty context or continuation")
        check_tokens([*context, *continuation], self.module.config.vocab_size)
        check_length(len(context) + len(continuation) - 1, self.longest + 1)
        return context, continuation

    def _score_paged(
        self, pairs: Seq[tuple[Seq[int], Seq[int]]], indices: list[int], adapter: str | None
    ) -> Iterator[tuple[int, Score]]:
        """Score some of the pairs under the scheduler, over the paged cache, which can do it for every model."""
        waiting, scorings = self._stepper.scorings, {}
        for index in indices:
            context, continuation = pairs[index]
            source: Seq[int] = ()
            if self.module.encoder is not None:
                source, context = context, [self.module.config.decoder_start]
            first = len(context) - 1
            tokens = [*context, *continuation]
            sequence = self._sequence(tokens[:-1], len(tokens), first, adapter, source)
            scorings[index] = waiting[sequence.id] = Scoring(sequence, first, list(continuation))
            self.scheduler.add(sequence)
        for index, scoring in scorings.items():
            with inference_of(self.module):
                while scoring.sequence.id in waiting:
                    self._stepper.step()
            yield index, scoring.score()


def _refused(request: Request, index: int, error: FoundlingError) -> Completion:
    reason = PROMPT_TOO_LONG if isinstance(error, PromptTooLong) else BAD_GRAMMAR
    return Completion("", [], [], reason, request.id, index, len(request.prompt_ids), message=str(error))
