"""A real HTTP server, in a thread, around the mock model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from openai import OpenAI

from foundling.serving.app import create_app
from foundling.serving.config import ServeConfig
from foundling.serving.server import listen


class Running:
    """A server on a free port, in a thread; `url` is its base address."""

    def __init__(self, model: Any, config: ServeConfig, others: dict[str, Any] | None = None) -> None:
        self.model = model
        self.app = create_app(model, config, others)
        self.socket = listen(config.host, 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 20, **options})

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.app.state.services.stop()
        self.socket.close()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Poll until `condition()` holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
