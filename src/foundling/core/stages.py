"""What a stage is, and the one place that runs one: config and inputs in, one immutable artifact out."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from foundling.core.artifacts import Artifact, Draft, Store
from foundling.core.config import Config, identity
from foundling.core.errors import FoundlingError, nearest


@dataclass(frozen=True)
class Port:
    """One input of a stage: which kinds of artifact fit, and whether the stage can do without."""

    kinds: tuple[str, ...]
    help: str
    required: bool = True


@dataclass(frozen=True)
class Stage:
    """A verb of the lifecycle. The strings are "module:attribute", imported only when needed.

    Args:
        ports: the inputs by name; the name "*" stands for any number of inputs of any name.
        run: `run(config, inputs, draft, **wired)`, which writes files under `draft.path`.
        version: raise it when the same config and inputs would give another result.
        outside: `outside(config) -> dict[str, str]`, content hashes of the files that the config names.
    """

    verb: str
    kind: str
    version: int
    help: str
    config: str
    run: str
    ports: Mapping[str, Port] = field(default_factory=dict)
    outside: str | None = None

    @cached_property
    def config_type(self) -> type[Config]:
        """The stage's config class."""
        found: type[Config] = load_attribute(self.config)
        return found

    def key(
        self, config: Config, inputs: Mapping[str, str], wired: Mapping[str, str] | None = None
    ) -> tuple[str, dict[str, str]]:
        """The key of the result, and all inputs: artifact keys, hashes of outside files and of what was wired in."""
        everything = {**inputs, **(wired or {})}
        if self.outside:
            everything |= {f"file:{k}": v for k, v in load_attribute(self.outside)(config).items()}
        return Store.key(self.verb, self.version, identity(config), everything), everything


@dataclass(frozen=True)
class Node:
    """One stage of a resolved life. Its key is known before anything runs, since keys depend only on keys."""

    name: str
    stage: Stage
    config: Config
    sources: dict[str, str]  # port -> name of another node, or an outside spec
    inputs: dict[str, Artifact | str]  # port -> outside artifact, or the key of another node
    key: str


class Inputs:
    """A stage's input artifacts by port. `inputs["corpus"]` must be there; `inputs.get("base")` may be None."""

    def __init__(self, artifacts: Mapping[str, Artifact]) -> None:
        self._artifacts = dict(artifacts)

    def __getitem__(self, port: str) -> Artifact:
        return self._artifacts[port]

    def get(self, port: str) -> Artifact | None:
        """The artifact at an optional port, or None."""
        return self._artifacts.get(port)

    def items(self) -> list[tuple[str, Artifact]]:
        """(port, artifact) pairs, sorted by port."""
        return sorted(self._artifacts.items())


def load_attribute(reference: str) -> Any:
    """Import "module:attribute"."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def run_stage(
    store: Store,
    stage: Stage,
    config: Config,
    artifacts: Mapping[str, Artifact],
    wired: Mapping[str, Callable[..., Any]] | None = None,
    wired_keys: Mapping[str, str] | None = None,
) -> tuple[Artifact, bool]:
    """Return the stage's artifact, making it only if the store has none, and whether it was reused.

    Args:
        wired: callables from upper layers that the stage is given.
        wired_keys: hashes of what those callables bring in, where it affects the result.

    Raises:
        FoundlingError: an input is missing or of the wrong kind, or the stage refuses its data.
    """
    check_ports(stage, {port: artifact.kind for port, artifact in artifacts.items()})
    key, inputs = stage.key(config, {port: artifact.key for port, artifact in artifacts.items()}, wired_keys)
    found = store.find(key)
    if found is not None:
        return found, True
    with store.draft(stage.kind, stage.verb, stage.version, identity(config), inputs) as draft:
        found = store.find(key)  # another process may have made it while we waited for the lock
        if found is None:
            with _Meter(draft):
                load_attribute(stage.run)(config, Inputs(artifacts), draft, **(wired or {}))
    made = found or store.find(key)
    assert made is not None, f"{stage.verb} {key} was published and cannot be found"
    return made, found is not None


def check_ports(stage: Stage, kinds: Mapping[str, str]) -> None:
    """Refuse missing inputs, unknown ports and artifacts of the wrong kind."""
    anything = stage.ports.get("*")
    for port, kind in kinds.items():
        allowed = stage.ports.get(port, anything)
        if allowed is None:
            options = ", ".join(stage.ports) or "none"
            what = f"{stage.verb} has no input {port!r}"
            raise FoundlingError(what, f"its inputs: {options}", nearest(port, stage.ports))
        if kind not in allowed.kinds:
            wanted = " or ".join(allowed.kinds)
            raise FoundlingError(f"input {port!r} of {stage.verb} is of kind {kind!r}", f"a {wanted} was expected")
    for port, needed in stage.ports.items():
        if needed.required and port not in kinds and port != "*":
            raise FoundlingError(f"{stage.verb} needs the input {port!r}", f"it is {needed.help}")


class _Meter:
    """Wall time (over all attempts) and peak resident memory of a stage, into the manifest's `run` part."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.elapsed_file: Path = draft.scratch / "elapsed.json"
        self.stop = threading.Event()
        self.peak = 0

    def __enter__(self) -> None:
        self.before = json.loads(self.elapsed_file.read_text()) if self.elapsed_file.exists() else 0.0
        self.saved = time.monotonic()
        self.start = time.monotonic()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss)
            if self.stop.wait(0.1):
                return
            if time.monotonic() - self.saved > 1:
                self._save_elapsed()

    def _save_elapsed(self) -> float:
        elapsed: float = round(self.before + time.monotonic() - self.start, 3)
        self.saved = time.monotonic()
        partial = self.elapsed_file.with_suffix(".tmp")  # renamed when whole: a kill never leaves half a number
        partial.write_text(json.dumps(elapsed))
        partial.replace(self.elapsed_file)
        return elapsed

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self.draft.timings |= {"seconds": self._save_elapsed(), "peak_memory_bytes": self.peak}
