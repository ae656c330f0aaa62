"""Lives: the named runs of a recipe, each a map from stage to artifact; what they need, and what nobody needs."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.files import write_json


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
    """Record a life atomically."""
    life.updated = time.time()
    write_json(life_path(store, life.name), vars(life))


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


def last_of_kind(store: Store, kind: str, among: list[Life] | None = None) -> str | None:
    """The key of the last artifact of a kind in the most recent life that has one."""
    for life in reversed(lives(store) if among is None else among):
        for key in reversed(life.stages.values()):
            if (store.root / "artifacts" / kind / key).is_dir():
                return key
    return None


def ancestors(store: Store, key: str) -> dict[str, Artifact]:
    """An artifact and everything it was made from, by key, inputs before outputs."""
    known = {artifact.key: artifact for artifact in store.artifacts()}
    order: dict[str, Artifact] = {}

    def visit(current: str) -> None:
        if current in known and current not in order:
            for parent in known[current].inputs.values():
                for part in parent.split(","):
                    visit(part)
            order[current] = known[current]

    visit(key)
    return order


def unneeded(store: Store, min_age_days: float) -> list[Artifact]:
    """Artifacts that no life and no kept artifact needs, and that are at least that old."""
    everything = store.artifacts()
    newest_needed = time.time() - min_age_days * 86400
    roots = {key for life in lives(store) for key in life.stages.values()}
    roots |= {artifact.key for artifact in everything if artifact.run.get("started", 0) > newest_needed}
    kept = {key for root in roots for key in ancestors(store, root)}
    return [artifact for artifact in everything if artifact.key not in kept]


def delete(artifacts: list[Artifact]) -> None:
    """Remove artifacts from the store."""
    for artifact in artifacts:
        shutil.rmtree(artifact.path)
