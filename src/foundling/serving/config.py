"""What a server is told before it starts. No torch here: the command line reads this file."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError

KEYS_VARIABLE = "FOUNDLING_API_KEYS"


class ServeConfig(Config):
    """How `foundling serve` listens and what it allows."""

    host: str = option("127.0.0.1", "address to listen on; anything but loopback needs API keys")
    port: int = option(8000, "port to listen on; 0 takes any free one", ge=0, le=65535)
    name: str = option("foundling", "the model's id in /v1/models and in requests", min_length=1)
    also: tuple[str, ...] = option((), "further models to serve beside it, as NAME=MODEL")
    adapters: tuple[str, ...] = option((), "adapters on this model, served under names of their own, as NAME=ADAPTER")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "precision of the weights in memory; auto takes the files' own, and float32 for float16"
    )
    cache_tokens: int | None = option(
        None, "tokens that the key/value cache has room for; by default a full batch's, in at most 1 GiB", ge=16
    )
    api_keys: tuple[str, ...] = option((), f"accepted API keys; {KEYS_VARIABLE} (comma-separated) adds to them")
    drain_seconds: float = option(30.0, "how long SIGTERM lets running requests finish", ge=0)
    max_body_bytes: int = option(8_000_000, "largest request body accepted", ge=1024)
    max_requests: int = option(256, "requests held at once, running and waiting; more are told 429", ge=1)
    requests_per_minute: int | None = option(None, "rate limit of each API key; none by default", ge=1)
    timeout_seconds: float = option(600.0, "longest time that one request may take, slow readers included", gt=0)
    cost_per_hour: float = option(0.0, "what this machine costs per hour, for the cost per million tokens", ge=0)
    answer_cache: int = option(0, "whole answers kept for requests that are pinned (temperature 0, or a seed)", ge=0)
    log: Path | None = option(None, "append one JSON line per request here instead of to standard error")
    log_prompts: bool = option(False, "log what was asked and answered too; otherwise no text is logged")
    votes: Path | None = option(None, "append the playground's votes here, as preference rows")
    rules: Path | None = option(None, "YAML file of guardrails: what may be asked and answered")

    def keys(self) -> tuple[str, ...]:
        """The accepted API keys, of the config and of the environment; empty means none is asked for."""
        extra = os.environ.get(KEYS_VARIABLE, "").split(",")
        return tuple(key for key in (*self.api_keys, *(part.strip() for part in extra)) if key)

    def others(self) -> tuple[dict[str, str], dict[str, str]]:
        """The further models and the adapters: their names in requests, and what they are.

        Raises:
            FoundlingError: one is not of the form NAME=MODEL, or two have one name.
        """
        found: tuple[dict[str, str], dict[str, str]] = {}, {}
        for flag, entries, group in zip(("also", "adapters"), (self.also, self.adapters), found, strict=True):
            for entry in entries:
                name, _, spec = entry.partition("=")
                if not name or not spec:
                    raise FoundlingError(f"--{flag} is {entry!r}", "expected NAME=WHERE", f"as in --{flag} tuned=PATH")
                if name in (self.name, *found[0], *found[1]):
                    raise FoundlingError(f"two served models are called {name!r}", fix="Give each a name of its own")
                group[name] = spec
        return found

    def refuse_open_server(self) -> None:
        """Refuse to listen off loopback without keys: a model open to a network is somebody else's compute.

        Raises:
            FoundlingError: naming the address and how to set a key.
        """
        if is_loopback(self.host) or self.keys():
            return
        raise FoundlingError(
            f"refusing to serve on {self.host} without an API key",
            "anybody who reaches that address could use the model",
            f"set {KEYS_VARIABLE}=YOUR-SECRET, or listen on 127.0.0.1",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
