"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from foundling.serving.answering import in_time, unless_gone
from foundling.serving.errors import refused
from foundling.serving.request_log import note_usage
from foundling.serving.requests import EmbeddingBody
from foundling.serving.service import Service, Services

MAX_INPUTS = 2048
TOKENS_AT_ONCE = 512


async def answer(services: Services, body: EmbeddingBody, http: HttpRequest) -> dict[str, Any]:
    """One vector per text."""
    service = services.pick(body.model)
    if service.base is not None:
        raise refused("model", f"{service.name} is an adapter; embeddings come from {service.base.name}")
    if not all(isinstance(text, str) for text in body.input):
        raise refused("input", "only texts are embedded here, not lists of token ids")
    if len(body.input) > MAX_INPUTS:
        raise refused("input", f"at most {MAX_INPUTS} texts in one request, got {len(body.input)}")
    async with in_time(service, "input"):
        longest = service.model.engine.pooling.max_tokens
        framed = await run_in_threadpool(service.tokenizer.encode_framed, body.input, longest)
        counts = [len(ids) for ids in framed]
        vectors = await unless_gone(_vectors(service, body.input, counts), http)
    count = sum(counts)
    note_usage(http.scope, service, body.user, {"prompt_tokens": count, "completion_tokens": 0})
    plain = body.encoding_format != "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": vector.tolist() if plain else _packed(vector)}
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": service.name, "usage": used}


async def _vectors(service: Service, texts: list[str], counts: list[int]) -> list[Any]:
    """The texts' vectors, a few at a time: between them the engine goes on with what it generates."""
    vectors: list[Any] = []
    while len(vectors) < len(texts):
        first, end, tokens = len(vectors), len(vectors), 0
        while end < len(texts) and (end == first or tokens + counts[end] <= TOKENS_AT_ONCE):
            tokens, end = tokens + counts[end], end + 1
        part = texts[first:end]
        vectors += list(await service.engine.call(lambda engine, part=part: engine.embed(part)))  # type: ignore[misc]
    return vectors


def _packed(vector: Any) -> str:
    """Base64 of little-endian float32, which the official client asks for and decodes."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
