"""Answers the three requests with one of our models, through the engine that serves it.

Tokens are split as lm-evaluation-harness splits them, so log-likelihoods are comparable number for number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from foundling.core.errors import FoundlingError
from foundling.evaluation.requests import (
    Answer,
    Generate,
    GenerateAnswer,
    Loglikelihood,
    LoglikelihoodAnswer,
    Messages,
    Request,
    Rolling,
    RollingAnswer,
)
from foundling.inference.engine import Engine
from foundling.inference.parameters import SamplingParams
from foundling.inference.requests import Request as EngineRequest
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer

Pair = tuple[list[int], list[int]]  # token ids of (context, continuation)


class LocalAnswerer:
    """Answers with an engine and its tokenizer.

    Args:
        max_context: the most tokens the model may see at once.
        window: the most tokens of a rolling window; None: max_context.
        window_context: how much of a rolling window is context already scored, in [0, 1): 0 is lm-eval's rule
            (each window starts with one token of context), 0.5 scores every token behind at least half a window.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        max_context: int,
        window: int | None = None,
        window_context: float = 0.0,
    ) -> None:
        self.engine, self.tokenizer, self.max_context = engine, tokenizer, max_context
        self.window, self.window_context = min(window or max_context, max_context), window_context
        self.prefix_id = tokenizer.eot_id if tokenizer.bos_id is None else tokenizer.bos_id
        self.start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]  # what the tokenizer puts before any text

    def new_block(self) -> None:
        """Drop the prefix cache: a resumed run must see the caches an undisturbed one saw."""
        self.engine.weights_changed()

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order. Each kind goes to the engine in one call, which batches it."""
        answers: dict[int, Answer] = {}
        pairs = [(i, r) for i, r in enumerate(requests) if isinstance(r, Loglikelihood)]
        texts = [(i, r) for i, r in enumerate(requests) if isinstance(r, Rolling)]
        prompts = [(i, r) for i, r in enumerate(requests) if isinstance(r, Generate)]
        answers |= zip([i for i, _ in pairs], self._loglikelihoods([r for _, r in pairs]), strict=True)
        answers |= zip([i for i, _ in texts], self._rolling([r for _, r in texts]), strict=True)
        answers |= zip([i for i, _ in prompts], self._generate([r for _, r in prompts]), strict=True)
        return [answers[i] for i in range(len(requests))]

    # --- log-likelihoods ------------------------------------------------------------------------------------------

    def _loglikelihoods(self, requests: Sequence[Loglikelihood]) -> list[LoglikelihoodAnswer]:
        if not requests:
            return []
        plain = [(r.context, r.continuation) for r in requests if isinstance(r.context, str)]
        encoded = iter(self.encode_pairs(plain))
        pairs = [next(encoded) if isinstance(r.context, str) else self._chat_pair(r) for r in requests]
        fitted = [self._fit(pair) for pair in pairs]
        scores = self.engine.score(fitted)
        return [
            LoglikelihoodAnswer(s.logprob, s.is_greedy, len(after), truncated=len(fit[0]) < len(before))
            for s, (before, after), fit in zip(scores, pairs, fitted, strict=True)
        ]

    def encode_pairs(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        """Token ids of (context, continuation) pairs by lm-eval's rule (`lm_eval.api.model.TemplateLM`).

        Spaces that end a context belong to the continuation; the continuation's tokens are those of the joined text
        after as many as the context alone has. An empty context becomes the beginning-of-text token.
        """
        moved = [_move_spaces(context, continuation) for context, continuation in texts]
        contexts = self.tokenizer.encode_batch([context for context, _ in moved])
        joined = self.tokenizer.encode_batch([context + continuation for context, continuation in moved])
        pairs = []
        for (context, continuation), before, whole in zip(texts, contexts, joined, strict=True):
            if not continuation:
                raise FoundlingError("a continuation to score is empty", f"its context ends with {context[-60:]!r}")
            if context:
                pairs.append((self.start + before or [self.prefix_id], whole[len(before) :]))
            else:
                pairs.append(([self.prefix_id], whole[1:] if whole[0] == self.prefix_id else whole))
        return pairs

    def _chat_pair(self, request: Loglikelihood) -> Pair:
        assert not isinstance(request.context, str)
        return self._rendered(request.context)[0], self.tokenizer.encode(request.continuation)

    def _rendered(self, messages: Messages) -> tuple[list[int], tuple[int, ...]]:
        turns = [{"role": role, "content": content} for role, content in messages]
        rendered = render(self.tokenizer, turns, add_generation_prompt=True)
        return rendered.ids, rendered.stop_ids

    def _fit(self, pair: Pair) -> Pair:
        """Keep the last `max_context` inputs (the last continuation token is only ever a target)."""
        before, after = pair
        excess = len(before) + len(after) - 1 - self.max_context
        return (before[excess:], after) if 0 < excess < len(before) else self._refuse_if_longer(pair, excess)

    def _refuse_if_longer(self, pair: Pair, excess: int) -> Pair:
        if excess <= 0:
            return pair
        what = f"a continuation has {len(pair[1])} tokens"
        raise FoundlingError(what, f"the model sees at most {self.max_context} at once")

    # --- rolling --------------------------------------------------------------------------------------------------

    def _rolling(self, requests: Sequence[Rolling]) -> list[RollingAnswer]:
        if not requests:
            return []
        owners, pairs = [], []
        all_ids = self.tokenizer.encode_batch([request.text for request in requests])
        for index, ids in enumerate(all_ids):
            for pair in self.windows(ids):
                owners.append(index)
                pairs.append(pair)
        totals = [0.0] * len(requests)
        for index, score in zip(owners, self.engine.score(pairs), strict=True):
            totals[index] += score.logprob
        return [RollingAnswer(total, len(ids)) for total, ids in zip(totals, all_ids, strict=True)]

    def windows(self, ids: list[int]) -> Iterator[Pair]:
        """Cut a document into (context, continuation) pairs that together score each of its tokens once."""
        shared = max(1, int(self.window * self.window_context))
        first = min(self.window, len(ids))
        if first:
            yield [self.prefix_id], ids[:first]
        step = self.window - shared + 1
        for start in range(first, len(ids), step):
            end = min(len(ids), start + step)
            yield ids[max(0, end - 1 - self.window) : start], ids[start:end]

    # --- generation -----------------------------------------------------------------------------------------------

    def _generate(self, requests: Sequence[Generate]) -> list[GenerateAnswer]:
        if not requests:
            return []
        prompts = [self._prompt_ids(request) for request in requests]
        rooms = [self._room(request) for request in requests]
        completions = iter(
            self.engine.generate(
                [
                    EngineRequest(ids[-room:], _sampling(request, stop_ids))
                    for request, (ids, stop_ids), room in zip(requests, prompts, rooms, strict=True)
                ]
            )
        )
        answers = []
        for request, (ids, _), room in zip(requests, prompts, rooms, strict=True):
            mine = [next(completions) for _ in range(request.n)]
            texts, reasons = tuple(c.text for c in mine), tuple(c.finish_reason for c in mine)
            tokens = sum(len(c.tokens) for c in mine)
            answers.append(GenerateAnswer(texts, reasons, min(len(ids), room), tokens, truncated=len(ids) > room))
        return answers

    def _room(self, request: Generate) -> int:
        """Tokens left for the prompt; a longer one loses its beginning, which the answer says."""
        room = self.max_context - request.max_tokens
        if room < 1:
            what = f"max_tokens={request.max_tokens} leaves no room for a prompt"
            raise FoundlingError(what, f"the model sees at most {self.max_context} tokens at once")
        return room

    def _prompt_ids(self, request: Generate) -> tuple[list[int], tuple[int, ...]]:
        if isinstance(request.prompt, str):
            start = [self.prefix_id] if request.begins_document else self.start
            return start + self.tokenizer.encode(request.prompt) or [self.prefix_id], ()
        return self._rendered(request.prompt)


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _sampling(request: Generate, stop_ids: tuple[int, ...]) -> SamplingParams:
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        stop=request.stop,
        stop_ids=stop_ids,
        n=request.n,
    )
