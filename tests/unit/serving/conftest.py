"""Servers around the mock model, for every test that speaks HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.serving.mock_model import mock_model
from tests.unit.serving.mock_server import Running

from foundling.serving.config import ServeConfig


@pytest.fixture
def running() -> Iterator[Any]:
    """A function that starts servers; they are stopped after the test."""
    with contextlib.ExitStack() as stack:

        def start(config: ServeConfig | None = None, others: dict[str, str] | None = None, **engine: Any) -> Running:
            models = {name: mock_model(reply=reply) for name, reply in (others or {}).items()}
            server = Running(mock_model(**engine), config or ServeConfig(), models)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="module")
def quiet() -> Iterator[Running]:
    """One server for all tests that expect its engine to be left alone."""
    server = Running(mock_model(), ServeConfig())
    yield server
    server.stop()
