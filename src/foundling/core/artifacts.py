"""The content-addressed store: a stage's result is one immutable, verified directory with a manifest.

    STORE/artifacts/<kind>/<key>/   published results
    STORE/drafts/<key>/             work in progress: files/ becomes the artifact, scratch/ survives a crash
    STORE/lives/<name>.json         which artifact each stage of a life produced
    STORE/damaged/                  artifacts that failed verification, moved aside

The key is a hash of what determines the result (stage, version, config, inputs), so equal keys mean equal results
and nothing runs twice. Publication is fsync + one rename: an artifact is whole or absent.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundling.core.config import canonical_json
from foundling.core.environment import environment
from foundling.core.errors import FoundlingError, nearest
from foundling.core.files import locked, sha256_file, sha256_tree, sync_directory, sync_tree, write_json

FORMAT = 1
KINDS = ("corpus", "tokenizer", "tokens", "dataset", "model", "adapter", "evaluation", "report")
MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
VOLATILE = (".log.jsonl", "timings.json")  # file name endings that two identical runs may write differently


@dataclass(frozen=True)
class Artifact:
    """A published, immutable result. `manifest` is the parsed manifest.json."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of what determines it: 16 hex digits."""
        return str(self.manifest["key"])

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return str(self.manifest["kind"])

    @property
    def stage(self) -> str:
        """The verb that made it."""
        return str(self.manifest["stage"])

    @property
    def config(self) -> dict[str, Any]:
        """The stage's config, as far as it affects the result."""
        return dict(self.manifest["config"])

    @property
    def inputs(self) -> dict[str, str]:
        """Port or file -> key of the input."""
        return dict(self.manifest["inputs"])

    @property
    def metrics(self) -> dict[str, Any]:
        """What the stage measured: deterministic numbers."""
        return dict(self.manifest["metrics"])

    @property
    def run(self) -> dict[str, Any]:
        """When, how long and on what it was made; the only part that may differ between two equal runs."""
        return dict(self.manifest["run"])

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(entry["size"]) for entry in self.manifest["files"].values())

    def file(self, name: str) -> Path:
        """The path of one of its files. Raises FoundlingError, naming the nearest one, if it has no such file."""
        path = self.path / name
        if not path.is_file():
            files = self.manifest["files"] or [p.name for p in self.path.iterdir()]
            raise FoundlingError(f"{self.kind} {self.key} has no file {name!r}", nearest(name, files))
        return path

    @classmethod
    def outside(cls, path: str | Path, kind: str) -> Artifact:
        """A file or directory that the store did not make, such as a downloaded model; keyed by its content."""
        path = Path(path).expanduser().resolve()
        if not path.exists():
            raise FoundlingError(f"{kind} {str(path)!r} does not exist")
        key = f"sha256:{sha256_tree(path)}"
        empty: dict[str, Any] = {"config": {}, "inputs": {}, "metrics": {}, "files": {}, "run": {}}
        return cls(path, {"key": key, "kind": kind, "stage": "outside", "version": 0, **empty})


@dataclass
class Draft:
    """A stage's private workspace. Files under `path` become the artifact; `scratch` survives a crash, then goes.

    `metrics` and `seeds` enter the manifest and must be deterministic; `timings` enters its `run` part.
    """

    path: Path
    scratch: Path
    key: str
    metrics: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """Where to write one of the artifact's files; its folder exists afterwards."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class Store:
    """A directory of artifacts, drafts and lives."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("FOUNDLING_STORE") or "runs").expanduser()
        self._verified: dict[Path, tuple[int, int]] = {}

    # --- keys and lookup ------------------------------------------------------------------------------------------

    @staticmethod
    def key(stage: str, version: int, config: dict[str, Any], inputs: dict[str, str]) -> str:
        """16 hex digits that name the result of a stage. `config` is the part that affects the result."""
        what = {"stage": stage, "version": version, "config": config, "inputs": inputs}
        return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:16]

    def find(self, key: str) -> Artifact | None:
        """The verified artifact of that key, or None. A damaged one is moved aside, with a message, and never used."""
        path = self._path_of(key)
        if path is None:
            return None
        problems = self.verify(path)
        if problems:
            self._set_aside(path, problems)
            return None
        return read_artifact(path)

    def has(self, key: str) -> bool:
        """Whether there is an artifact of that key; it is not read."""
        return self._path_of(key) is not None

    def artifacts(self) -> list[Artifact]:
        """Every published artifact, oldest first. Manifests that cannot be read are skipped: `verify` names them."""
        found = []
        for path in sorted(self.root.glob("artifacts/*/*")):
            with contextlib.suppress(FoundlingError):
                found.append(read_artifact(path))
        return sorted(found, key=lambda artifact: (artifact.run.get("started", 0), artifact.key))

    def keys_like(self, prefix: str) -> list[str]:
        """Keys of published artifacts that begin so."""
        return sorted(p.name for p in self.root.glob(f"artifacts/*/{prefix}*")) if _is_hex(prefix) else []

    def require(self, key: str | None, kind: str) -> Artifact:
        """The verified artifact of a key. Raises FoundlingError if it is missing, damaged or of another kind."""
        if key is None:
            what = f"the store {str(self.root)!r} has no {kind} yet"
            raise FoundlingError(what, fix="Run `foundling run quickstart`, or name a path")
        path = self._path_of(key)
        if path is None:
            raise FoundlingError(
                f"artifact {key} is gone from the store {str(self.root)!r}", fix="Run its recipe again"
            )
        return self.checked(path, kind)

    def checked(self, path: Path, kind: str) -> Artifact:
        """The artifact in a directory. Raises FoundlingError if a byte of it has changed, or it is of another kind."""
        problems = self.verify(path)
        if problems:
            raise FoundlingError(f"the artifact {path} cannot be used", "; ".join(problems), "Run its recipe again")
        artifact = read_artifact(path)
        if artifact.kind != kind and {artifact.kind, kind} != {"model", "adapter"}:
            raise FoundlingError(f"artifact {artifact.key} is of kind {artifact.kind!r}", f"Expected the kind {kind!r}")
        return artifact

    # --- writing --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def draft(
        self, kind: str, stage: str, version: int, config: dict[str, Any], inputs: dict[str, str]
    ) -> Iterator[Draft]:
        """A private directory that is published when the block ends, or kept (its scratch) for resuming when it fails.

        A second process that wants the same key waits, says who holds it, and then finds the result.
        """
        assert kind in KINDS, kind
        key = self.key(stage, version, config, inputs)
        home = self.root / "drafts" / key
        lock = self.root / "drafts" / f"{key}.lock"
        with _full_disk_explained(self.root), locked(lock, f"{stage} {key}"):
            shutil.rmtree(home / "files", ignore_errors=True)
            draft = Draft(home / "files", home / "scratch", key)
            draft.path.mkdir(parents=True)
            draft.scratch.mkdir(exist_ok=True)
            started = time.time()
            yield draft
            manifest = {
                "format": FORMAT,
                "kind": kind,
                "key": key,
                "stage": stage,
                "version": version,
                "config": config,
                "inputs": inputs,
                "metrics": draft.metrics,
                "seeds": draft.seeds,
                "files": _hash_files(draft.path),
                "run": {"started": round(started, 3), **draft.timings, "environment": environment()},
            }
            self._publish(draft, kind, manifest)
            lock.unlink(missing_ok=True)

    def _publish(self, draft: Draft, kind: str, manifest: dict[str, Any]) -> None:
        manifest["checksum"] = _checksum(manifest)
        write_json(draft.path / MANIFEST, manifest)
        sync_tree(draft.path)
        target = self.root / "artifacts" / kind / draft.key
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            draft.path.rename(target)
            sync_directory(target.parent)
        shutil.rmtree(draft.path.parent, ignore_errors=True)

    # --- integrity ------------------------------------------------------------------------------------------------

    def verify(self, path: Path) -> list[str]:
        """Problems of one artifact, as sentences; empty when every byte is as published. Re-hashes changed files only
        within one process: a file with the size and time seen before is not read again."""
        try:
            manifest = read_artifact(path).manifest
        except FoundlingError as error:
            return [str(error)]
        problems = []
        for name, entry in manifest["files"].items():
            file = path / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif file.stat().st_size != entry["size"]:
                problems.append(f"{name} has {file.stat().st_size} bytes instead of {entry['size']}")
            elif not self._hash_matches(file, entry["sha256"]):
                problems.append(f"{name} has changed since it was published")
        expected = {*manifest["files"], MANIFEST}
        extra = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - expected
        return problems + [f"{name} does not belong to it" for name in sorted(extra)]

    def _hash_matches(self, file: Path, sha256: str) -> bool:
        stat = file.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        if self._verified.get(file) != stamp:
            if sha256_file(file) != sha256:
                return False
            self._verified[file] = stamp
        return True

    def _set_aside(self, path: Path, problems: list[str]) -> None:
        target = self.root / "damaged" / f"{path.name}-{int(time.time())}"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        message = f"{path.parent.name} {path.name} is damaged ({'; '.join(problems)}); moved to {target}, made anew."
        print(message, file=sys.stderr, flush=True)

    def _path_of(self, key: str) -> Path | None:
        return next((p for kind in KINDS if (p := self.root / "artifacts" / kind / key).is_dir()), None)


def read_artifact(path: Path) -> Artifact:
    """Read and check a manifest (not the files). Raises FoundlingError if it is missing, broken or altered."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        checksum = manifest.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise FoundlingError(f"{path} is not an artifact", f"its manifest cannot be read: {error}") from None
    if manifest.get("format") != FORMAT:
        raise FoundlingError(f"{path} has manifest format {manifest.get('format')}", f"this version reads {FORMAT}")
    if checksum != _checksum(manifest):
        raise FoundlingError(f"the manifest of {path} has changed since it was published")
    return Artifact(path, manifest)


def is_volatile(name: str) -> bool:
    """Whether two equal runs may write this file differently (logs, timings)."""
    return name.endswith(VOLATILE)


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(manifest).encode()).hexdigest()


def _hash_files(root: Path) -> dict[str, dict[str, Any]]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): {"sha256": sha256_file(p), "size": p.stat().st_size} for p in files}


def _is_hex(text: str) -> bool:
    return len(text) >= 4 and all(c in "0123456789abcdef" for c in text)


@contextlib.contextmanager
def _full_disk_explained(root: Path) -> Iterator[None]:
    """Say it in a user's words, whichever library met the full disk: not all of them raise OSError."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, FoundlingError) or (number not in FULL and os.strerror(errno.ENOSPC) not in str(error)):
            raise
        what = f"the disk that holds the store {str(root)!r} is full"
        raise FoundlingError(what, "Nothing published was lost", "Free some space and run again to go on") from error
