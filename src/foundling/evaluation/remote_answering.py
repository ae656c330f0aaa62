"""Answers the three requests with a model behind an OpenAI-compatible URL, as far as its text allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed

from foundling.core.errors import FoundlingError
from foundling.evaluation.requests import (
    Answer,
    Answerer,
    Generate,
    GenerateAnswer,
    Loglikelihood,
    LoglikelihoodAnswer,
    Request,
    Rolling,
)
from foundling.inference.remote import RemoteCompletion, RemoteModel


class RemoteAnswerer(Answerer):
    """Several requests at a time; every answer is handed on as it comes, so that none is paid for twice."""

    def __init__(self, model: RemoteModel) -> None:
        self.model = model

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""
        found = dict(self.answer_each(requests))
        return [found[index] for index in range(len(requests))]

    def answer_each(self, requests: Sequence[Request], known: Set[int] = frozenset()) -> Iterator[tuple[int, Answer]]:
        """(index, answer) in the order in which they come.

        Raises:
            FoundlingError: a request that a URL has no words for, before anything is sent; or the endpoint fails.
        """
        for request in requests:
            _refuse_unspeakable(request)
        with ThreadPoolExecutor(self.model.engine.endpoint.concurrency) as pool:
            asked = {pool.submit(self._one, r): i for i, r in enumerate(requests) if i not in known}
            try:
                for future in as_completed(asked):
                    yield asked[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, request: Request) -> Answer:
        if isinstance(request, Generate):
            return self._generate(request)
        assert isinstance(request, Loglikelihood) and isinstance(request.context, str)
        kept = request.context.rstrip()  # spaces belong to the continuation, as in `LocalAnswerer`
        continuation = request.context[len(kept) :] + request.continuation
        [score] = self.model.engine.score([(kept, continuation)])
        return LoglikelihoodAnswer(score.logprob, score.is_greedy, len(score.tokens_logprobs))

    def _generate(self, request: Generate) -> GenerateAnswer:
        if isinstance(request.prompt, str):
            prompt: str | list[dict[str, str]] = request.prompt
        else:
            prompt = [{"role": role, "content": content} for role, content in request.prompt]
        stop = {"stop": request.stop} if request.stop else {}
        sampling = {"seed": request.seed, "n": request.n} if request.temperature else {}
        asked = self.model.request(
            prompt, max_tokens=request.max_tokens, temperature=request.temperature, **stop, **sampling
        )
        done = self.model.engine.generate([asked])
        if done[0].failed:
            raise FoundlingError("a prompt is too long for the model behind the URL", done[0].message)
        texts, reasons = tuple(c.text for c in done), tuple(c.finish_reason for c in done)
        assert isinstance(done[0], RemoteCompletion)
        return GenerateAnswer(texts, reasons, done[0].prompt_tokens, done[0].completion_tokens)


def _refuse_unspeakable(request: Request) -> None:
    if isinstance(request, Rolling):
        why = "windows over them are cut by token, and a URL does not give its tokens"
        raise FoundlingError("whole texts cannot be scored behind a URL", why, "load the model itself for this task")
    if not isinstance(request, Loglikelihood):
        return
    if not isinstance(request.context, str):
        why = "OpenAI's interface gives no log-probabilities of a given answer to messages"
        raise FoundlingError("choices after chat messages cannot be scored behind a URL", why, "leave out --chat")
    if not request.context.strip():
        why = "the endpoint gives no log-probability of a prompt's first token"
        raise FoundlingError("a continuation of nothing cannot be scored behind a URL", why)
