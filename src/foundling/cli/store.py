"""Verbs about what there is: list, lineage, verify, gc, models, doctor."""

from __future__ import annotations

import importlib.util
import json as json_module
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.tree import Tree

from foundling.core import hardware
from foundling.core.artifacts import KINDS, Artifact, Store
from foundling.core.environment import environment
from foundling.core.errors import FoundlingError, nearest
from foundling.core.garbage import delete, delete_leftover, leftovers, unneeded
from foundling.core.lives import ancestors, key_of, last_of_kind, lives
from foundling.core.units import human_bytes, human_count, human_flops, human_time

LADDER_VOCABULARY = 4096  # our own small presets take their tokenizer's; this one is for the table
StorePath = Annotated[str | None, Parameter(help="where artifacts are kept (default: ./runs, or FOUNDLING_STORE)")]


def list_artifacts(*, kind: str | None = None, store: StorePath = None, json: bool = False) -> None:
    """The lives and artifacts in the store.

    Args:
        kind: show only artifacts of this kind: model, evaluation, corpus, ...
    """
    home = Store(store)
    if kind not in (None, *KINDS):
        raise FoundlingError(f"there are no artifacts of kind {kind!r}", nearest(str(kind), KINDS), ", ".join(KINDS))
    names = {key: f"{life.name}/{stage}" for life in lives(home) for stage, key in life.stages.items()}
    found = [artifact for artifact in home.artifacts() if kind in (None, artifact.kind)]
    if json:
        rows = [
            {"key": a.key, "kind": a.kind, "stage": a.stage, "name": names.get(a.key), "bytes": a.size} for a in found
        ]
        print(json_module.dumps(rows))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "key", "life/stage", "made", "took", "size"):
        table.add_column(column)
    for artifact in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(artifact.run.get("started", 0)))
        took = human_time(float(artifact.run.get("seconds", 0)))
        table.add_row(artifact.kind, artifact.key, names.get(artifact.key, "-"), made, took, human_bytes(artifact.size))
    none = f"The store {home.root} has no {kind or 'artifact'} yet. Begin with: foundling run quickstart"
    _print(table if found else none)


def lineage(spec: str | None = None, *, store: StorePath = None, json: bool = False) -> None:
    """What an artifact was made from, back to the raw data.

    Args:
        spec: a life/stage or a key (default: the newest life's last model).
    """
    home = Store(store)
    key = _key(home, spec)
    family = ancestors(home, key)
    if key not in family:
        raise FoundlingError(f"artifact {key} is gone from the store {str(home.root)!r}", fix="Run its recipe again")
    if json:
        rows = {
            k: {"kind": a.kind, "stage": a.stage, "inputs": a.inputs, "config": a.config} for k, a in family.items()
        }
        print(json_module.dumps({"artifact": key, "lineage": rows}))
        return
    names = {k: f"{life.name}/{stage}" for life in lives(home) for stage, k in life.stages.items()}
    _print(_tree(family[key], family, names, None))


def verify(spec: str | None = None, *, store: StorePath = None, json: bool = False) -> None:
    """Re-hash artifacts and name every damaged file; exits with 2 if there is one.

    Args:
        spec: a life/stage or a key (default: everything in the store).
    """
    home = Store(store)
    everything = sorted(home.root.glob("artifacts/*/*"))
    wanted = None if spec is None else _key(home, spec)
    checked = [path for path in everything if wanted in (None, path.name)]
    problems = {f"{path.parent.name}/{path.name}": found for path in checked if (found := home.verify(path))}
    if json:
        print(json_module.dumps({"checked": len(checked), "damaged": problems}))
    else:
        for name, found in problems.items():
            print(f"{name}: {'; '.join(found)}")
    if problems:
        names = ", ".join(problems)
        raise FoundlingError(f"{len(problems)} of {len(checked)} artifacts are damaged: {names}", fix="Run them again")
    if not json:
        verified = f"{len(checked)} artifacts verified: every byte is as it was published."
        print(verified if checked else f"The store {home.root} has no artifacts.")


def gc(*, days: float = 1.0, yes: bool = False, store: StorePath = None) -> None:
    """Delete artifacts that no life and no newer artifact needs, and what crashed stages left behind.

    Args:
        days: keep what is younger than this.
        yes: delete; without it, only say what would go.
    """
    home = Store(store)
    artifacts, crashed = unneeded(home, days), leftovers(home, days)
    for artifact in artifacts:
        print(f"{artifact.kind} {artifact.key} ({human_bytes(artifact.size)}), made by {artifact.stage}")
    for folder in crashed:
        print(f"{folder.parent.name} {folder.name} ({human_bytes(_size(folder))}), left by a stage that did not end")
    total = human_bytes(sum(artifact.size for artifact in artifacts) + sum(_size(folder) for folder in crashed))
    found = f"{len(artifacts)} artifacts and {len(crashed)} leftovers ({total})"
    if not yes:
        print(f"Nothing deleted: {found} could go. Add --yes to delete them.")
        return
    delete(artifacts)
    in_use = [folder.name for folder in crashed if not delete_leftover(folder)]
    print(f"Deleted {found}" + (f", but for {', '.join(in_use)}, in use." if in_use else "."))


def models(*, json: bool = False) -> None:
    """The model presets, their sizes and costs."""
    from foundling.models import cost, presets

    rows: list[dict[str, Any]] = []
    for name in presets.names():
        config = presets.preset(name, vocab_size=None if name in presets.PUBLISHED else LADDER_VOCABULARY)
        rows.append(
            {
                "name": name,
                "family": config.family,
                "parameters": cost.n_parameters(config),
                "active": cost.n_parameters(config, active=True),
                "blocks": config.n_layers,
                "width": config.dim,
                "vocabulary": config.vocab_size,
                "context": config.max_positions,
                "flops_per_token": cost.flops_per_token(config, config.max_positions),
                "kv_bytes_per_token": cost.kv_bytes_per_token(config),
            }
        )
    if json:
        print(json_module.dumps(rows))
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("name", "family") else "right")
    for row in rows:
        counts = [human_count(row[c]) for c in ("parameters", "active")]
        sizes = [str(row[c]) for c in ("blocks", "width", "vocabulary", "context")]
        costs = [human_flops(row["flops_per_token"]), human_bytes(row["kv_bytes_per_token"])]
        table.add_row(row["name"], row["family"], *counts, *sizes, *costs)
    _print(table)


def doctor(*, store: StorePath = None, json: bool = False) -> None:
    """What this machine can do, and what is missing."""
    import torch

    home = Store(store)
    rates = hardware.remembered(home.root / "machine.json")
    free = shutil.disk_usage(home.root if home.root.exists() else ".").free
    extras = {name: importlib.util.find_spec(name) is not None for name in ("transformers", "peft", "lm_eval", "ray")}
    facts = {
        "machine": hardware.describe(),
        "device": rates.device,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "memory bandwidth (bytes/s)": rates.bandwidth,
        "fp32 matrix rate (FLOP/s)": rates.fp32,
        "bf16 matrix rate (FLOP/s)": rates.bf16,
        "free disk (bytes)": free,
        "C++ compiler (native kernels)": shutil.which("g++") or shutil.which("clang++"),
        "optional packages": extras,
        "versions": environment(),
    }
    if json:
        print(json_module.dumps(facts))
        return
    shown = {
        **facts,
        "memory bandwidth (bytes/s)": f"{rates.bandwidth / 1e9:.1f} GB/s",
        "fp32 matrix rate (FLOP/s)": f"{human_flops(rates.fp32)}/s",
        "bf16 matrix rate (FLOP/s)": f"{human_flops(rates.bf16)}/s",
        "free disk (bytes)": human_bytes(free),
        "C++ compiler (native kernels)": facts["C++ compiler (native kernels)"] or "none: slower reference kernels",
        "optional packages": ", ".join(f"{n} {'✓' if ok else 'missing'}" for n, ok in extras.items()),
        "versions": ", ".join(f"{n} {v}" for n, v in environment().items()),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in shown.items():
        table.add_row(name.partition(" (")[0], str(value))
    _print(table)


def _key(store: Store, spec: str | None) -> str:
    key = last_of_kind(store, "model") if spec is None else key_of(store, spec)
    if key is None:
        raise FoundlingError(
            f"nothing in the store {str(store.root)!r} is called {spec or 'a model'!r}", fix="See `foundling list`"
        )
    return key


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tree(artifact: Artifact, family: dict[str, Artifact], names: dict[str, str], branch: Tree | None) -> Tree:
    label = f"[bold]{names.get(artifact.key, artifact.stage)}[/]  {artifact.kind} {artifact.key}"
    label += f"  [dim]{human_time(float(artifact.run.get('seconds', 0)))}, {human_bytes(artifact.size)}[/]"
    node = branch.add(label) if branch else Tree(label)
    for port, key in sorted(artifact.inputs.items()):
        if key in family:
            _tree(family[key], family, names, node)
        else:
            node.add(f"[dim]{port}: {key}[/]")
    return node


def _print(what: Any) -> None:
    from rich.console import Console

    Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160).print(what)
