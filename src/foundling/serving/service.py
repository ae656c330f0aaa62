"""What the routes share: the model that is served, and the engine's thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from foundling.serving.engine_loop import EngineLoop
from foundling.serving.errors import ApiError

if TYPE_CHECKING:
    from foundling.inference.model import Model
    from foundling.serving.config import ServeConfig


class Service:
    """One served model.

    Attributes:
        name: its id in requests.
        model: the model.
        tokenizer: its tokenizer.
        context: prompt and answer together have at most this many tokens.
        engine: the thread that runs it.
    """

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.config = config
        self.name = config.name
        self.model = model
        self.tokenizer = model.tokenizer
        self.context: int = model.module.config.max_positions
        self.vocab_size: int = model.module.config.vocab_size
        self.engine = EngineLoop(model.engine)
        self.created = int(time.time())
        self.draining = False

    def check_model(self, asked: str) -> None:
        """Refuse a request for a model that is not served here."""
        if asked != self.name:
            message = f"the model '{asked}' is not served here; this server serves '{self.name}'"
            raise ApiError(404, message, param="model", code="model_not_found")

    def card(self) -> dict[str, Any]:
        """The model's entry in /v1/models."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "foundling",
            "max_model_len": self.context,
        }
