"""The engine's methods over an OpenAI-compatible URL: what a model elsewhere can do where its text is enough.

`connect("http://localhost:8000/v1")` gives a `RemoteModel` with `Model`'s methods on texts and messages. Token ids are
not known here, so completions carry `pieces` (the tokens' texts) instead of `tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urldefrag

import numpy as np
import numpy.typing as npt

from foundling.core.errors import FoundlingError, nearest
from foundling.inference.endpoint import Endpoint, EndpointError
from foundling.inference.parameters import SamplingParams
from foundling.inference.requests import PROMPT_TOO_LONG, Completion, Event, Prompt, Request, Score

TEXTS_PER_CALL = 64
# Fields beyond OpenAI's that most servers know, sent only when they ask for something.
EXTRA = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0, "min_tokens": 0, "ignore_eos": False}
_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")


def is_url(spec: object) -> bool:
    """Whether a MODEL argument is a URL."""
    return str(spec).startswith(("http://", "https://"))


@dataclass(frozen=True)
class RemoteRequest:
    """A prompt and how to continue it.

    Args:
        prompt: a text to continue, chat messages to answer, or token ids (of the endpoint's own tokenizer).
        id: the caller's name for it.
    """

    prompt: Prompt | Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    id: Any = None

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is chat messages."""
        return not isinstance(self.prompt, str) and bool(self.prompt) and isinstance(self.prompt[0], Mapping)


@dataclass
class RemoteCompletion(Completion):
    """A continuation whose token ids are not known; `logprobs` is empty unless `params.logprobs` asked for them.

    Args:
        pieces: texts of its tokens, where log-probabilities were asked for.
        top_pieces: per token the most probable alternatives: text -> log p.
        completion_tokens: tokens of all n continuations of its request, as the endpoint counts them.
    """

    pieces: list[str] = field(default_factory=list)
    top_pieces: list[dict[str, float]] | None = None
    completion_tokens: int = 0


@dataclass
class Usage:
    """What the endpoint says it has computed for us."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: Mapping[str, Any]) -> None:
        """Count one reply."""
        used = reply.get("usage") or {}
        self.requests += 1
        self.prompt_tokens += used.get("prompt_tokens") or 0
        self.completion_tokens += used.get("completion_tokens") or 0


class RemoteEngine:
    """Generates, scores and embeds on an endpoint's model, several requests at a time."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.endpoint, self.model, self.usage = endpoint, model, Usage()

    def generate(self, requests: Sequence[RemoteRequest | Request]) -> list[Completion]:
        """Continue every request; n completions each, in order.

        A prompt that is too long ends with that finish reason, as in `Engine.generate`.

        Raises:
            FoundlingError: the endpoint cannot be reached, refuses, or a parameter cannot be asked of a URL.
        """
        asked = [_remote(request) for request in requests]
        for request in asked:
            _refuse_unspeakable(request)
        found = []
        for request, reply in zip(asked, self.endpoint.map(self._complete, asked), strict=True):
            if isinstance(reply, EndpointError):
                count = range(request.params.n)
                found += [Completion("", [], [], PROMPT_TOO_LONG, request.id, i, message=str(reply)) for i in count]
                continue
            self.usage.add(reply)
            found += _completions(request, reply)
        return found

    def stream(self, request: RemoteRequest) -> Iterator[Event]:
        """The text of one continuation as it comes; the last event has the whole."""
        _refuse_unspeakable(request)
        path, body = self._call(request)
        text, reason = "", ""
        for chunk in self.endpoint.stream(path, {**body, "n": 1, "stream": True}):
            for choice in chunk.get("choices", ()):
                piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                text, reason = text + piece, choice.get("finish_reason") or reason
                if piece:
                    yield Event(request.id, 0, piece)
        if not reason:
            raise EndpointError(f"{self.endpoint.url} broke off its answer", "the stream ended without a finish reason")
        yield Event(request.id, 0, finish_reason=reason, completion=RemoteCompletion(text, [], [], reason, request.id))

    def score(self, pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]]) -> list[Score]:
        """log p(continuation | context) of every pair of texts, or of token ids, in order.

        The endpoint must return the prompt's log-probabilities (completions with `echo`: this package's server and
        vLLM do). A token that straddles the border of two texts counts to the continuation.

        Raises:
            FoundlingError: a continuation is empty, or the endpoint does not echo log-probabilities.
        """
        for _, continuation in pairs:
            if not len(continuation):
                raise FoundlingError("a pair to score has an empty continuation")
        replies = self.endpoint.map(self._echo, pairs)
        for reply in replies:
            self.usage.add(reply)
        return [_score(after, reply, self.endpoint.url) for (_, after), reply in zip(pairs, replies, strict=True)]

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of the texts, scaled to length 1: (n, dim)."""
        pieces = [texts[at : at + TEXTS_PER_CALL] for at in range(0, len(texts), TEXTS_PER_CALL)]
        body = {"model": self.model, "encoding_format": "float"}
        work = lambda piece: self.endpoint.post("/embeddings", {**body, "input": list(piece)})  # noqa: E731
        rows: list[list[float]] = []
        for reply in self.endpoint.map(work, pieces):
            self.usage.add(reply)
            rows += [item["embedding"] for item in sorted(reply["data"], key=lambda item: item["index"])]
        if len(rows) != len(texts):
            raise EndpointError(f"{self.endpoint.url} gave {len(rows)} vectors for {len(texts)} texts")
        vectors = np.array(rows, dtype=np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if rows else vectors

    def _complete(self, request: RemoteRequest) -> Any:
        path, body = self._call(request)
        try:
            return self.endpoint.post(path, body)
        except EndpointError as error:
            if error.too_long:
                return error
            raise

    def _call(self, request: RemoteRequest) -> tuple[str, dict[str, Any]]:
        p = request.params
        body: dict[str, Any] = {"model": self.model, "max_tokens": p.max_tokens, "temperature": p.temperature, "n": p.n}
        optional = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": None, **EXTRA}
        body |= {name: getattr(p, name) for name, off in optional.items() if getattr(p, name) != off}
        if p.stop:
            body["stop"] = list(p.stop)
        if p.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in p.logit_bias.items()}
        if not request.is_chat:
            prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
            asked = {} if p.logprobs is None else {"logprobs": p.logprobs}
            return "/completions", {**body, **asked, "prompt": prompt}
        if p.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": p.logprobs}
        if p.grammar is not None:
            body["response_format"] = p.grammar.response_format()
        return "/chat/completions", {**body, "messages": list(request.prompt)}

    def _echo(self, pair: tuple[str | Sequence[int], str | Sequence[int]]) -> Any:
        context, after = pair
        if isinstance(context, str) and isinstance(after, str):
            prompt: Any = context + after
        else:
            prompt = [*context, *after]
        body = {"model": self.model, "prompt": prompt, "max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 1}
        return self.endpoint.post("/completions", body)


class RemoteModel:
    """A model behind a URL, with `Model`'s methods.

    Args:
        context: most tokens of a prompt with its answer; None where the endpoint does not say.
    """

    def __init__(self, engine: RemoteEngine, context: int | None = None) -> None:
        self.engine, self.context = engine, context

    def request(self, prompt: Prompt, **sampling: Any) -> RemoteRequest:
        """The engine's request for a text or for chat messages."""
        return RemoteRequest(prompt, SamplingParams.of(**sampling))

    def pair(self, context: str, continuation: str) -> tuple[str, str]:
        """What `engine.score` takes for two texts."""
        return context, continuation

    def generate(self, prompt: Prompt, **sampling: Any) -> Completion:
        """Continue a text, or answer chat messages. `sampling`: fields of SamplingParams."""
        return self.generate_n(prompt, **sampling)[0]

    def generate_n(self, prompt: Prompt, **sampling: Any) -> list[Completion]:
        """All n continuations of one prompt."""
        completions = self.engine.generate([self.request(prompt, **sampling)])
        if completions[0].failed:
            raise FoundlingError(completions[0].message)
        return completions

    def stream(self, prompt: Prompt, **sampling: Any) -> Iterator[Event]:
        """The events of one continuation as they come."""
        return self.engine.stream(self.request(prompt, **sampling))

    def score(self, context: str, continuation: str) -> float:
        """log p(continuation | context), natural logarithm."""
        return self.engine.score([(context, continuation)])[0].logprob

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors (n, dim) of texts."""
        return self.engine.embed(texts)


def connect(url: str, **options: Any) -> RemoteModel:
    """The model at a base URL; "URL#name" chooses one of several. `options`: see `Endpoint`.

    Raises:
        FoundlingError: nothing answers there, or it has no such model.
    """
    base, wanted = urldefrag(url)
    endpoint = Endpoint(base, **options)
    patience, endpoint.retries = endpoint.retries, min(1, endpoint.retries)  # a wrong address is told at once
    served = {card["id"]: card for card in endpoint.get("/models").get("data", ())}
    endpoint.retries = patience
    if not served or (wanted and wanted not in served):
        what = f"{endpoint.url} does not serve {wanted!r}" if wanted else f"{endpoint.url} serves no model"
        raise FoundlingError(what, f"it serves {', '.join(sorted(served)) or 'nothing'}", nearest(wanted, served))
    name = wanted or next(iter(served))
    return RemoteModel(RemoteEngine(endpoint, name), served[name].get("max_model_len"))


def _remote(request: RemoteRequest | Request) -> RemoteRequest:
    if isinstance(request, RemoteRequest):
        return request
    return RemoteRequest(list(request.prompt_ids), request.params, request.id)


def _refuse_unspeakable(request: RemoteRequest) -> None:
    """Refuse what OpenAI's interface has no words for, before anything is sent."""
    p = request.params
    asked = {"bad_words": p.bad_words or p.bad_words_ids, "stop_ids": p.stop_ids, "echo": p.echo}
    asked |= {
        "prompt_logprobs": p.prompt_logprobs is not None,
        "grammar": p.grammar is not None and not request.is_chat,
    }
    refused = [name for name, value in asked.items() if value]
    if refused:
        why = (
            "grammars go with chat messages only" if refused == ["grammar"] else "OpenAI's interface has no such field"
        )
        raise FoundlingError(f"{refused[0]} cannot be asked of a URL", why, "load the model itself, or leave it out")
    if not request.prompt:
        raise FoundlingError("the prompt is empty", "expected a text, messages or token ids")


def _completions(request: RemoteRequest, reply: Mapping[str, Any]) -> list[Completion]:
    choices = sorted(reply.get("choices", ()), key=lambda choice: choice["index"])
    if len(choices) != request.params.n:
        raise EndpointError(f"the endpoint gave {len(choices)} answers, not n = {request.params.n}")
    used = reply.get("usage") or {}
    prompt_tokens, completion_tokens = used.get("prompt_tokens") or 0, used.get("completion_tokens") or 0
    found: list[Completion] = []
    for index, choice in enumerate(choices):
        text = choice["message"].get("content") if request.is_chat else choice["text"]
        done = RemoteCompletion(text or "", [], [], choice["finish_reason"], request.id, index, prompt_tokens)
        done.completion_tokens = completion_tokens
        told = choice.get("logprobs") or {}
        if request.is_chat:
            tokens = told.get("content") or ()
            done.pieces, done.logprobs = [token["token"] for token in tokens], [token["logprob"] for token in tokens]
            tops = [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens]
        else:
            done.pieces, done.logprobs = told.get("tokens") or [], told.get("token_logprobs") or []
            tops = [top or {} for top in told.get("top_logprobs") or ()]
        if request.params.logprobs is not None:
            if not done.pieces and done.text:
                raise EndpointError("the endpoint gave no log-probabilities", "they were asked for")
            done.top_pieces = tops
        found.append(done)
    return found


def _score(continuation: str | Sequence[int], reply: Mapping[str, Any], url: str) -> Score:
    told = (reply.get("choices") or [{}])[0].get("logprobs") or {}
    logprobs, pieces, tops = (told.get(name) or [] for name in ("token_logprobs", "tokens", "top_logprobs"))
    if isinstance(continuation, str):
        count, size = 0, 0
        spelled, wanted = [_spelling(piece) for piece in pieces], continuation.encode()
        while size < len(wanted) and count < len(pieces):
            count += 1
            size += len(spelled[-count])
        usable = b"".join(spelled[len(spelled) - count :]).endswith(wanted)
    else:
        count = len(continuation)
        usable = count < len(logprobs)
    scores = logprobs[len(logprobs) - count :]
    if not usable or None in scores or len(tops) != len(logprobs):
        raise EndpointError(
            f"{url} cannot score texts",
            "it did not give the log-probabilities of the prompt's tokens (completions with echo and logprobs)",
            "vLLM and this package's server do; give a context too, if it was empty",
        )
    best = [max(top.values(), default=-np.inf) for top in tops[len(tops) - count :]]
    greedy = all(own >= other for own, other in zip(scores, best, strict=True))
    return Score(float(sum(scores)), list(scores), greedy)


def _spelling(piece: str) -> bytes:
    """A token's bytes; half a character comes as `bytes:\\xe2`."""
    found = _BYTES.fullmatch(piece)
    return bytes.fromhex(found[1].replace("\\x", "")) if found else piece.encode()
