"""Lives: the named runs of a recipe, each a map from stage to artifact; and what a user means by a name or a key."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundling.core.artifacts import MANIFEST, Artifact, Store, read_artifact
from foundling.core.errors import FoundlingError, nearest
from foundling.core.files import write_atomic


@dataclass
class Life:
    """One life: the resolved recipe (what the planner chose included) and the artifact of each stage so far."""

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)  # stage name -> artifact key, in the order of the recipe
    plan: dict[str, Any] = field(default_factory=dict)
    updated: float = 0.0


def life_path(store: Store, name: str) -> Path:
    """The file that records a life."""
    return store.root / "lives" / f"{name}.json"


def read_life(store: Store, name: str) -> Life | None:
    """The recorded life, or None. Raises FoundlingError if its file cannot be read."""
    path = life_path(store, name)
    if not path.is_file():
        return None
    try:
        return Life(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise FoundlingError(f"{path} is not a life", str(error), "Delete it and run the recipe again") from None


def write_life(store: Store, life: Life) -> None:
    """Record a life atomically, its stages in their order."""
    life.updated = time.time()
    write_atomic(life_path(store, life.name), json.dumps(vars(life), indent=1, ensure_ascii=False) + "\n")


def lives(store: Store) -> list[Life]:
    """Every recorded life, the most recently updated last."""
    found = [read_life(store, path.stem) for path in sorted(store.root.glob("lives/*.json"))]
    return sorted((life for life in found if life), key=lambda life: life.updated)


def stage_of_life(store: Store, spec: str) -> str | None:
    """The key that "life/stage" means, or None if `spec` does not begin with the name of a life."""
    name, _, stage = spec.partition("/")
    life = read_life(store, name)
    if life is None:
        return None
    if not stage:
        return last_of_kind(store, "model", [life])
    if stage not in life.stages:
        known = ", ".join(life.stages)
        raise FoundlingError(f"life {name!r} has no stage {stage!r}", f"it has {known}", nearest(stage, life.stages))
    return life.stages[stage]


def key_of(store: Store, spec: str) -> str | None:
    """The key that "life/stage", a life (its last model) or a key prefix means, or None.

    Raises:
        FoundlingError: a life without that stage, an ambiguous prefix.
    """
    key = stage_of_life(store, spec)
    matches = store.keys_like(spec) if key is None else [key]
    if len(matches) > 1:
        raise FoundlingError(f"key prefix {spec!r} is ambiguous", f"It matches {', '.join(matches)}")
    return matches[0] if matches else None


def artifact_of(store: Store, spec: str | None, kind: str = "model") -> Artifact | None:
    """The artifact a user means by `spec`: a path, "life/stage", a key prefix; None: the newest life's last one.

    Returns None if it is none of these (it may be a preset or a hub id).

    Raises:
        FoundlingError: an ambiguous key prefix, a life without that stage, nothing of that kind in the store, or an
            artifact of another kind or a damaged one.
    """
    if spec is None:
        return store.require(last_of_kind(store, kind), kind)
    path = Path(spec).expanduser()
    if path.exists():
        return store.checked(path, kind) if (path / MANIFEST).is_file() else Artifact.outside(path, kind)
    key = key_of(store, spec)
    return store.require(key, kind) if key else None


def last_of_kind(store: Store, kind: str, among: list[Life] | None = None, *, compressed: bool = True) -> str | None:
    """The key of the last artifact of a kind in the most recent life that has one.

    Args:
        compressed: False passes over compressed models: they cannot be trained, nor compressed again.
    """
    for life in reversed(lives(store) if among is None else among):
        for key in reversed(life.stages.values()):
            path = store.root / "artifacts" / kind / key
            if path.is_dir() and (compressed or read_artifact(path).stage != "compress"):
                return key
    return None


def ancestors(store: Store, key: str) -> dict[str, Artifact]:
    """An artifact and everything it was made from, by key, inputs before outputs; empty if it is not in the store."""
    return with_ancestors({artifact.key: artifact for artifact in store.artifacts()}, [key])


def with_ancestors(known: dict[str, Artifact], keys: Iterable[str]) -> dict[str, Artifact]:
    """Those of the `known` artifacts that have these keys, and what they were made from, inputs before outputs."""
    order: dict[str, Artifact] = {}

    def visit(key: str) -> None:
        if key in known and key not in order:
            for parent in known[key].inputs.values():
                for part in parent.split(","):
                    visit(part)
            order[key] = known[key]

    for key in keys:
        visit(key)
    return order
