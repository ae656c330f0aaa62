"""Answers the three requests with one of our models, through the engine that serves it.

Tokens are split as lm-evaluation-harness splits them, so log-likelihoods are comparable number for number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from foundling.core.errors import FoundlingError
from foundling.evaluation.requests import (
    Answer,
    Answerer,
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
from foundling.inference.requests import Completion
from foundling.inference.requests import Request as EngineRequest
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer

Pair = tuple[list[int], list[int]]  # token ids of (context, continuation)


class LocalAnswerer(Answerer):
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
        self.engine.clear_cache()

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""
        found = dict(self.answer_each(requests))
        return [found[index] for index in range(len(requests))]

    def answer_each(self, requests: Sequence[Request], known: Set[int] = frozenset()) -> Iterator[tuple[int, Answer]]:
        """(index, answer) as they come. Each kind goes to the engine in one call, which batches it.

        What is known still takes part in planning the passes that score, so that the rest comes out the same to the
        last bit.
        """
        pairs = [(i, r) for i, r in enumerate(requests) if isinstance(r, Loglikelihood)]
        texts = [(i, r) for i, r in enumerate(requests) if isinstance(r, Rolling)]
        prompts = [(i, r) for i, r in enumerate(requests) if isinstance(r, Generate) and i not in known]
        yield from self._loglikelihoods(pairs, known)
        yield from self._rolling(texts, known)
        yield from self._generate(prompts)

    # --- log-likelihoods ------------------------------------------------------------------------------------------

    def _loglikelihoods(
        self, requests: Sequence[tuple[int, Loglikelihood]], known: Set[int]
    ) -> Iterator[tuple[int, Answer]]:
        wanted = frozenset(at for at, (index, _) in enumerate(requests) if index not in known)
        if not wanted:
            return
        plain = [(r.context, r.continuation) for _, r in requests if isinstance(r.context, str)]
        encoded = iter(self.encode_pairs(plain))
        pairs = [next(encoded) if isinstance(r.context, str) else self._chat_pair(r) for _, r in requests]
        fitted = [self._fit(pair) for pair in pairs]
        for at, score in self.engine.score_each(fitted, wanted):
            before, after = pairs[at]
            kept = fitted[at][0]
            truncated = len(kept) < len(before)
            yield requests[at][0], LoglikelihoodAnswer(score.logprob, score.is_greedy, len(after), truncated, len(kept))

    def encode_pairs(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        """Token ids of (context, continuation) pairs by lm-eval's rule (`lm_eval.api.model.TemplateLM`).

        Spaces that end a context belong to the continuation; the continuation's tokens are those of the joined text
        after as many as the context alone has. An empty context becomes the beginning-of-text token.
        """
        moved = [_move_spaces(context, continuation) for context, continuation in texts]
        unique = list(dict.fromkeys(context for context, _ in moved))
        contexts = dict(zip(unique, self.tokenizer.encode_batch(unique), strict=True))
        joined = self.tokenizer.encode_batch([context + continuation for context, continuation in moved])
        pairs = []
        for (context, continuation), (kept, _), whole in zip(texts, moved, joined, strict=True):
            before = contexts[kept]
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

    def _rolling(self, requests: Sequence[tuple[int, Rolling]], known: Set[int]) -> Iterator[tuple[int, Answer]]:
        owners, pairs = [], []
        all_ids = self.tokenizer.encode_batch([request.text for _, request in requests])
        for at, ids in enumerate(all_ids):
            for pair in self.windows(ids):
                owners.append(at)
                pairs.append(pair)
        wanted = frozenset(n for n, at in enumerate(owners) if requests[at][0] not in known)
        scores = dict(self.engine.score_each(pairs, wanted)) if wanted else {}
        for at, (index, _) in enumerate(requests):
            if index not in known:
                total = sum(scores[n].logprob for n, owner in enumerate(owners) if owner == at)
                yield index, RollingAnswer(float(total), len(all_ids[at]))

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

    def _generate(self, requests: Sequence[tuple[int, Generate]]) -> Iterator[tuple[int, Answer]]:
        prompts = {index: self._prompt_ids(request) for index, request in requests}
        rooms = {index: self._room(request) for index, request in requests}
        done: dict[int, dict[int, Completion]] = {index: {} for index, _ in requests}
        for index, request in requests:
            ids, stop_ids = prompts[index]
            self.engine.add(EngineRequest(ids[-rooms[index] :], _sampling(request, stop_ids), id=index))
        counts = {index: request.n for index, request in requests}
        while counts:
            for event in self.engine.step():
                if event.completion is None:
                    continue
                index = event.request_id
                done[index][event.index] = event.completion
                if len(done[index]) == counts[index]:
                    del counts[index]
                    mine = [done[index][n] for n in range(len(done[index]))]
                    yield index, _generated(mine, len(prompts[index][0]), rooms[index])

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


def _generated(completions: Sequence[Completion], prompt_tokens: int, room: int) -> GenerateAnswer:
    texts, reasons = tuple(c.text for c in completions), tuple(c.finish_reason for c in completions)
    written = sum(len(c.tokens) for c in completions)
    return GenerateAnswer(texts, reasons, min(prompt_tokens, room), written, truncated=prompt_tokens > room)


def _sampling(request: Generate, stop_ids: tuple[int, ...]) -> SamplingParams:
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        stop=request.stop,
        stop_ids=stop_ids,
        n=request.n,
    )
