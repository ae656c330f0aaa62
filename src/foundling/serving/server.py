"""Running the application: the socket, the signals, the drain."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import uvicorn

from foundling.core.errors import FoundlingError
from foundling.core.memory import stay_small
from foundling.serving.app import create_app
from foundling.serving.config import ServeConfig

if TYPE_CHECKING:
    from foundling.inference.model import Model


def serve(model: Model, config: ServeConfig | None = None, others: Mapping[str, Model] | None = None) -> None:
    """Serve `model` over HTTP until SIGINT or SIGTERM; running requests then get `drain_seconds` to finish.

    Args:
        others: further models, by the names that requests use, such as one to compare with in the playground.

    Raises:
        FoundlingError: the port is taken, the address is not ours, or it is off loopback and no API key is set.
    """
    config = config or ServeConfig()
    config.refuse_open_server()
    stay_small()
    sys.setswitchinterval(0.001)  # the engine's thread hands the interpreter over sooner, so that probes answer at once
    with listen(config.host, config.port) as sock:
        app = create_app(model, config, others)
        address = f"[{config.host}]" if ":" in config.host else config.host
        print(f"Serving {config.name} on http://{address}:{sock.getsockname()[1]}/v1 (Ctrl-C stops it)", flush=True)
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(config.drain_seconds),
            lifespan="off",
        )
        try:
            with _signals_end_the_server():
                uvicorn.Server(settings).run(sockets=[sock])
        finally:
            app.state.services.stop()


@contextlib.contextmanager
def _signals_end_the_server() -> Iterator[None]:
    """After its drain uvicorn raises the signal again for whoever ran it: here that is nobody, the exit is clean."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        FoundlingError: naming the address and what to change.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise FoundlingError(f"cannot serve on {host!r}", "no such address", "Use 127.0.0.1 or 0.0.0.0") from None
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise FoundlingError(
                f"port {port} on {host} is in use",
                "another program listens there",
                "Stop it, or choose another with --port (0 takes any free one)",
            ) from None
        raise FoundlingError(f"cannot listen on {host}:{port}", error.strerror or str(error)) from None
    return sock
