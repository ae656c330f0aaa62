"""The web application: which path does what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

import foundling
from foundling.serving import chat_completions, completions, errors, tokens
from foundling.serving.access import LimitBody, RequireKey
from foundling.serving.requests import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from foundling.serving.service import Service

if TYPE_CHECKING:
    from foundling.inference.model import Model
    from foundling.serving.config import ServeConfig


def create_app(model: Model, config: ServeConfig) -> FastAPI:
    """The application that serves `model`. Its engine's thread starts at once; `app.state.service` holds it."""
    service = Service(model, config)
    app = FastAPI(title="Foundling", version=foundling.__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)
    app.add_middleware(LimitBody, limit=config.max_body_bytes)
    app.add_middleware(RequireKey, keys=config.keys())
    _add_openai_routes(app, service)
    _add_own_routes(app, service)
    service.engine.start()
    return app


def _add_openai_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, http: Request) -> Response:
        return await chat_completions.answer(service, body, http)

    @app.post("/v1/completions", response_model=None)
    async def complete(body: CompletionBody, http: Request) -> Response:
        return await completions.answer(service, body, http)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.card()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.card()


def _add_own_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=None)
    async def health() -> Response:
        alive = service.engine.alive
        return JSONResponse({"status": "ok" if alive else "the engine has stopped"}, status_code=200 if alive else 503)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        return tokens.tokenize(service, body)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        return tokens.detokenize(service, body)
