"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Any

from starlette.requests import Request as HttpRequest

from foundling.core.errors import FoundlingError
from foundling.serving.errors import refused
from foundling.serving.request_log import note_usage
from foundling.serving.requests import EmbeddingBody
from foundling.serving.service import Services

MAX_INPUTS = 2048


async def answer(services: Services, body: EmbeddingBody, http: HttpRequest) -> dict[str, Any]:
    """One unit vector per text."""
    service = services.pick(body.model)
    if not all(isinstance(text, str) for text in body.input):
        raise refused("input", "only texts are embedded here, not lists of token ids")
    if len(body.input) > MAX_INPUTS:
        raise refused("input", f"at most {MAX_INPUTS} texts in one request, got {len(body.input)}")
    try:
        vectors = await service.engine.call(lambda engine: engine.embed(body.input))
    except FoundlingError as error:
        raise refused("input", str(error)) from None
    count = sum(len(ids) for ids in service.tokenizer.encode_batch(body.input))
    note_usage(http.scope, service, body.user, {"prompt_tokens": count, "completion_tokens": 0})
    plain = body.encoding_format != "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": vector.tolist() if plain else _packed(vector)}
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": service.name, "usage": used}


def _packed(vector: Any) -> str:
    """Base64 of little-endian float32, which the official client asks for and decodes."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
