"""What nobody needs: artifacts outside every life, and what crashed stages and damaged artifacts left behind."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from foundling.core.artifacts import Artifact, Store
from foundling.core.files import locked
from foundling.core.lives import lives, with_ancestors


def unneeded(store: Store, min_age_days: float) -> list[Artifact]:
    """Artifacts that no life and no kept artifact needs, and that are at least that old."""
    known = {artifact.key: artifact for artifact in store.artifacts()}
    newest = time.time() - min_age_days * 86400
    young = [key for key, artifact in known.items() if artifact.run.get("started", 0) > newest]
    kept = with_ancestors(known, [*young, *(key for life in lives(store) for key in life.stages.values())])
    return [artifact for key, artifact in known.items() if key not in kept]


def leftovers(store: Store, min_age_days: float) -> list[Path]:
    """Drafts and damaged artifacts in which nothing was written for that long."""
    newest = time.time() - min_age_days * 86400
    folders = [p for p in [*store.root.glob("drafts/*"), *store.root.glob("damaged/*")] if p.is_dir()]
    return sorted(folder for folder in folders if _touched(folder) < newest)


def delete(artifacts: list[Artifact]) -> None:
    """Remove artifacts from the store."""
    for artifact in artifacts:
        shutil.rmtree(artifact.path)


def delete_leftover(folder: Path) -> bool:
    """Remove a draft or a damaged artifact, unless a running stage holds it; returns whether it is gone."""
    lock = folder.with_suffix(".lock")
    with locked(lock, str(folder), wait=False) as mine:
        if mine:
            shutil.rmtree(folder)
            lock.unlink(missing_ok=True)
    return mine


def _touched(folder: Path) -> float:
    """When anything in a folder was last written."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
