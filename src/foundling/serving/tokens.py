"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool

from foundling.serving.errors import refused
from foundling.serving.requests import DetokenizeBody, TokenizeBody
from foundling.serving.service import Services


async def tokenize(services: Services, body: TokenizeBody) -> dict[str, Any]:
    """Token ids of a text, or of messages through the chat template."""
    service = services.pick(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise refused("prompt", "give either prompt or messages")
    if body.prompt is not None:
        ids = await run_in_threadpool(service.tokenizer.encode, body.prompt)
    else:
        messages = [message.plain() for message in body.messages or []]
        ids = await service.render(messages, answer=body.add_generation_prompt)
    return {"tokens": ids, "count": len(ids), "max_model_len": service.context}


async def detokenize(services: Services, body: DetokenizeBody) -> dict[str, Any]:
    """The text that token ids spell, control tokens included."""
    service = services.pick(body.model)
    bad = next((token for token in body.tokens if not 0 <= token < service.vocab_size), None)
    if bad is not None:
        raise refused("tokens", f"token id {bad} is outside the vocabulary of {service.vocab_size}")
    return {"prompt": await run_in_threadpool(service.tokenizer.decode, body.tokens, skip_special=False)}
