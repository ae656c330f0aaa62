"""The web application: which path does what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

import foundling
from foundling.serving import chat_completions, completions, embeddings, errors, tokens
from foundling.serving.access import LimitBody, RequireKey
from foundling.serving.metrics import Metrics
from foundling.serving.rate_limit import RateLimit
from foundling.serving.request_log import LogRequests, appender
from foundling.serving.requests import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
    VoteBody,
)
from foundling.serving.service import Service, Services
from foundling.serving.votes import Votes

if TYPE_CHECKING:
    from foundling.inference.model import Model
    from foundling.serving.config import ServeConfig

PAGE = Path(__file__).parent / "playground"
PAGE_FILES = {"/": "index.html", "/playground.js": "playground.js", "/playground.css": "playground.css"}


def create_app(model: Model, config: ServeConfig, others: Mapping[str, Model] | None = None) -> FastAPI:
    """The application that serves `model` under `config.name`, `others` and all models' adapters under their names.

    The engines' threads start at once; `app.state.services` holds them.
    """
    metrics = Metrics(config.cost_per_hour)
    served = []
    for name, each in {config.name: model, **(others or {})}.items():
        served.append(Service(name, each, config, metrics))
        served += [Service(adapter, each, config, metrics, base=served[-1]) for adapter in each.engine.adapters]
    services = Services(served, metrics)
    metrics.services = services.by_name
    app = FastAPI(
        title="Foundling", version=foundling.__version__, docs_url=None, redoc_url=None, responses=errors.DOCUMENTED
    )
    app.state.services = services
    errors.install(app)
    app.add_middleware(LimitBody, limit=config.max_body_bytes, seconds=config.timeout_seconds)
    app.add_middleware(RequireKey, keys=config.keys(), limit=RateLimit(config.requests_per_minute))
    count = lambda path, status: metrics.requests.labels(path, str(status)).inc()  # noqa: E731
    app.add_middleware(LogRequests, append=appender(config.log), count=count)
    _add_openai_routes(app, services)
    _add_token_routes(app, services)
    _add_probes(app, services)
    _add_playground(app, Votes(config.votes))
    for engine in services.engines:
        engine.start()
    return app


def _add_openai_routes(app: FastAPI, services: Services) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, http: Request) -> Response:
        return await chat_completions.answer(services, body, http)

    @app.post("/v1/completions", response_model=None)
    async def complete(body: CompletionBody, http: Request) -> Response:
        return await completions.answer(services, body, http)

    @app.post("/v1/embeddings")
    async def embed(body: EmbeddingBody, http: Request) -> dict[str, Any]:
        return await embeddings.answer(services, body, http)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.card() for service in services.by_name.values()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return services.pick(name).card()


def _add_token_routes(app: FastAPI, services: Services) -> None:
    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        return await tokens.tokenize(services, body)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        return await tokens.detokenize(services, body)


def _add_probes(app: FastAPI, services: Services) -> None:
    @app.get("/health", response_model=None)
    async def health() -> Response:
        alive = services.alive
        return JSONResponse({"status": "ok" if alive else "an engine has stopped"}, status_code=200 if alive else 503)

    @app.get("/ready", response_model=None)
    async def ready() -> Response:
        free = services.ready
        return JSONResponse({"status": "ready" if free else "busy"}, status_code=200 if free else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(services.metrics.page(), media_type="text/plain; version=0.0.4")


def _add_playground(app: FastAPI, votes: Votes) -> None:
    def page(name: str) -> Any:
        async def show() -> Response:
            return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})

        return show

    for path, name in PAGE_FILES.items():
        app.add_api_route(path, page(name), methods=["GET"], response_model=None, include_in_schema=False)

    @app.post("/playground/votes")
    async def vote(body: VoteBody) -> dict[str, Any]:
        return await votes.keep(body)
