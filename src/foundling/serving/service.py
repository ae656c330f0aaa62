"""What the routes share: the models that are served, each with its engine's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from foundling.core.errors import FoundlingError
from foundling.serving.answer_cache import AnswerCache
from foundling.serving.engine_loop import EngineLoop
from foundling.serving.errors import ApiError, refused
from foundling.serving.request_log import note
from foundling.serving.rules import read_rules

if TYPE_CHECKING:
    from foundling.inference.model import Model
    from foundling.inference.structured.grammar import Grammar
    from foundling.serving.config import ServeConfig
    from foundling.serving.metrics import Metrics

T = TypeVar("T")


class Service:
    """One served model. Several may be served side by side, each with its own engine.

    Attributes:
        name: its id in requests.
        model: the model.
        tokenizer: its tokenizer.
        context: prompt and answer together have at most this many tokens.
        engine: the thread that runs it.
        base, adapter: for an adapter, the model it is on, whose engine answers for both, and its name there.
    """

    def __init__(
        self, name: str, model: Model, config: ServeConfig, metrics: Metrics, base: Service | None = None
    ) -> None:
        self.config, self.name, self.metrics = config, name, metrics
        self.model = model
        self.tokenizer = model.tokenizer
        self.context: int = model.module.config.max_positions
        self.vocab_size: int = model.module.config.vocab_size
        self.base = base
        self.adapter = name if base else None
        self.engine: EngineLoop = base.engine if base else EngineLoop(model.engine, config.max_requests, metrics)
        self.longest_token = max(len(self.tokenizer.token_bytes(id)) for id in range(self.tokenizer.vocab_size))
        self.created = int(time.time())
        self.cache = AnswerCache(config.answer_cache)
        self.rules = read_rules(config.rules)
        self._one_core = anyio.CapacityLimiter(1)

    async def encode(self, text: str) -> list[int]:
        """A text's tokens, as `Model.generate` makes them; in another thread, so that a long one delays nobody.

        Raises:
            ApiError: the text is far too long to be worth encoding.
        """
        self._refuse_hopeless(len(text.encode()), "prompt")
        return list((await run_in_threadpool(self.model.request, text)).prompt_ids)

    async def render(
        self, messages: list[dict[str, Any]], answer: bool = True, tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """The tokens of chat messages, ready for the model to answer.

        Raises:
            ApiError: the chat template refuses the messages, or they are far too long.
        """
        from foundling.tokenization.chat import render

        self._refuse_hopeless(sum(len(str(message["content"]).encode()) for message in messages), "messages")

        def ids(shown: list[dict[str, Any]]) -> list[int]:
            return render(self.tokenizer, shown, tools=tools, add_generation_prompt=answer).ids

        try:
            rendered = await run_in_threadpool(ids, messages)
            named = next((index for index, message in enumerate(messages) if "name" in message), None)
            nameless = [{key: value for key, value in one.items() if key != "name"} for one in messages]
            if named is not None and await run_in_threadpool(ids, nameless) == rendered:
                raise refused(f"messages[{named}].name", "this model's chat template does not show names")
        except FoundlingError as error:
            raise ApiError(400, str(error), param="messages") from None
        return rendered

    async def compiled(self, grammar: Grammar | None, param: str) -> Grammar | None:
        """The grammar itself, once the engine has compiled it.

        Raises:
            ApiError: it cannot be used with this model's tokenizer.
        """
        if grammar is not None:
            try:
                await self.aside(self.model.engine.compile, grammar)
            except FoundlingError as error:
                raise refused(param, str(error)) from None
        return grammar

    async def aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """The result of work on grammars, in another thread, one after the other: many would starve the engine."""
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._one_core)

    def _refuse_hopeless(self, size: int, param: str) -> None:
        """Refuse what cannot fit in the context even if all its tokens are the vocabulary's longest."""
        if size > self.context * self.longest_token:
            message = f"{size} bytes are at least {size // self.longest_token} tokens; the context has {self.context}"
            raise ApiError(400, message, param=param, code="context_length_exceeded")

    def log_text(self, scope: Scope, asked: Any, answered: list[str]) -> None:
        """Put a request's texts into its log line, where the config allows it."""
        if self.config.log_prompts:
            note(scope, asked=asked, answered=answered)

    def card(self) -> dict[str, Any]:
        """The model's entry in /v1/models."""
        card = {"id": self.name, "object": "model", "created": self.created, "owned_by": "foundling"}
        return {**card, "parent": self.base.name if self.base else None, "max_model_len": self.context}


class Services:
    """All served models, by the names that requests use; the first is the default of our own endpoints."""

    def __init__(self, services: Sequence[Service], metrics: Metrics) -> None:
        self.by_name = {service.name: service for service in services}
        self.metrics = metrics

    def pick(self, name: str | None) -> Service:
        """The service that a request names.

        Raises:
            ApiError: 404, naming the models that are served.
        """
        if name is None:
            return next(iter(self.by_name.values()))
        if name in self.by_name:
            return self.by_name[name]
        served = ", ".join(repr(known) for known in self.by_name)
        message = f"the model {name!r} is not served here; this server serves {served}"
        raise ApiError(404, message, param="model", code="model_not_found")

    @property
    def engines(self) -> list[EngineLoop]:
        """The engines' threads: one for each model, its adapters included."""
        return [service.engine for service in self.by_name.values() if service.base is None]

    @property
    def alive(self) -> bool:
        """Whether all engines can answer."""
        return all(engine.alive for engine in self.engines)

    @property
    def ready(self) -> bool:
        """Whether another request would be taken."""
        return self.alive and all(engine.held < engine.max_requests for engine in self.engines)

    def stop(self) -> None:
        """End the engines' threads."""
        for engine in self.engines:
            engine.stop()
