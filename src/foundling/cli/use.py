"""Verbs that use a model: generate, chat, serve, compare, adapt."""

from __future__ import annotations

import inspect
import json as json_module
from typing import Annotated, Any

from cyclopts import Parameter

from foundling.cli.flags import config_data, flag_parameters, with_parameters
from foundling.core.artifacts import Store
from foundling.core.config import parse
from foundling.core.lives import artifact_of
from foundling.serving.config import ServeConfig
from foundling.studies.adapt_config import AdaptConfig

MODEL_HELP = "a path, life/stage, key, preset or hub id (default: the newest life's last model)"
Spec = Annotated[str | None, Parameter(help=MODEL_HELP, show_default=False)]
URL_HELP = MODEL_HELP.replace(" or hub id", ", hub id or OpenAI-compatible URL (http://HOST/v1#NAME)")
SpecOrUrl = Annotated[str | None, Parameter(help=URL_HELP, show_default=False)]
StorePath = Annotated[str | None, Parameter(help="where artifacts are kept (default: ./runs, or FOUNDLING_STORE)")]


def generate(
    prompt: str,
    *,
    model: SpecOrUrl = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int | None = None,
    stop: Annotated[list[str] | None, Parameter(negative="")] = None,
    chat: bool = False,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """Continue a text, or answer it as a message with --chat.

    Args:
        prompt: the text to continue.
        temperature: 0 is greedy.
        chat: render the prompt as a user's message with the model's chat template.
    """
    from foundling.inference.model import load_or_connect
    from foundling.serving.terminal import generate as generate_text

    loaded = load_or_connect(model, store=Store(store))
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    sampling |= {"min_p": min_p, "seed": seed, "stop": tuple(stop or ())}
    if json:
        asked: Any = [{"role": "user", "content": prompt}] if chat else prompt
        done = loaded.generate(asked, **sampling)
        print(json_module.dumps({"text": done.text, "tokens": done.tokens, "finish_reason": done.finish_reason}))
        return
    generate_text(loaded, [{"role": "user", "content": prompt}] if chat else prompt, **sampling)


def chat(
    model: SpecOrUrl = None,
    *,
    system: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    store: StorePath = None,
) -> None:
    """Talk to a model in the terminal, streaming.

    Args:
        system: a system message to begin with.
        temperature: 0 is greedy.
    """
    from foundling.inference.model import load_or_connect
    from foundling.serving.terminal import chat as chat_in_terminal

    loaded = load_or_connect(model, store=Store(store))
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    chat_in_terminal(loaded, system=system, **sampling)


def _serve(model: str | None = None, store: str | None = None, **flags: Any) -> None:
    """Serve a model behind an OpenAI-compatible URL."""
    import torch

    from foundling.inference.model import load
    from foundling.serving.server import serve as serve_model

    data = config_data(ServeConfig, flags)
    if model is not None:
        data.setdefault("name", model)
    config = parse(ServeConfig, data, "serve")
    config.refuse_open_server()  # before the time that loading takes
    home, (others, adapters) = Store(store), config.others()
    dtype = getattr(torch, config.dtype) if config.dtype != "auto" else None
    loaded = {
        name: load(spec, store=home, dtype=dtype, max_tokens_in_cache=config.cache_tokens)
        for name, spec in {config.name: model, **others}.items()
    }
    for name, spec in adapters.items():
        artifact = artifact_of(home, spec, "adapter")
        loaded[config.name].engine.load_adapter(name, artifact.path if artifact else spec)
    serve_model(loaded.pop(config.name), config, loaded)


def _adapt(base: str | None = None, store: str | None = None, json: bool | None = None, **flags: Any) -> None:
    """Try every road from a model to a task and recommend the cheapest that is good enough."""
    from foundling.models.locate import locate
    from foundling.studies.adapt import adapt as adapt_model

    config = parse(AdaptConfig, config_data(AdaptConfig, flags), "adapt")
    artifact = artifact_of(Store(store), base)
    found = adapt_model(artifact.path if artifact is not None else locate(str(base)), config)
    print(found.to_json() if json else found)


def _parameter(name: str, kind: Any, help: str, positional: bool) -> inspect.Parameter:
    where = inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(
        name, where, default=None, annotation=Annotated[kind, Parameter(help=help, show_default=False)]
    )


serve = with_parameters(
    _serve,
    [
        _parameter("model", str | None, MODEL_HELP, positional=True),
        *flag_parameters(ServeConfig).values(),
        _parameter("store", str | None, "where artifacts are kept (default: ./runs)", positional=False),
    ],
)

adapt = with_parameters(
    _adapt,
    [
        _parameter("base", str | None, MODEL_HELP, positional=True),
        *flag_parameters(AdaptConfig).values(),
        _parameter("store", str | None, "where artifacts are kept (default: ./runs)", positional=False),
        _parameter("json", bool | None, "print one JSON document instead of text", positional=False),
    ],
)
