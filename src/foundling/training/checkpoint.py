"""Checkpoints of a run in progress: whole or absent, without pickle, and refused by a run they do not belong to.

    SCRATCH/checkpoint-00000400/   weights/*.safetensors, optimizer/*.safetensors (see sharded_files.py), state.json

Each process writes the pieces it holds. Resuming is exact to the bit: data order and dropout are functions of
(seed, step), so the weights, the optimizer's state and the step are all there is.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn

from foundling.core.errors import FoundlingError
from foundling.core.files import sync_tree, write_json
from foundling.training import sharded_files
from foundling.training.sharded_files import Tensors, is_first

PREFIX = "checkpoint-"
WEIGHTS, OPTIMIZER, STATE = "weights", "optimizer", "state.json"


def save(
    scratch: Path,
    step: int,
    weights: Tensors,
    optimizer: Tensors,
    state: dict[str, Any],
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write the checkpoint of `step`, then delete the older ones. Every process of `group` must call it.

    Args:
        weights: see `trained_weights`.
        optimizer: see `Optimizers.state`.

    Raises:
        FoundlingError: the disk is full. The earlier checkpoint is intact.
    """
    try:
        with _whole_or_absent(scratch / f"{PREFIX}{step:08d}", group) as draft:
            for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer)):
                (draft / name).mkdir(exist_ok=True)
                sharded_files.write(draft / name, tensors, group)
            if is_first(group):
                write_json(draft / STATE, state)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(scratch, step, error) from error
    if is_first(group):
        for older in _all(scratch)[:-1]:
            shutil.rmtree(older, ignore_errors=True)


@contextmanager
def _whole_or_absent(target: Path, group: dist.ProcessGroup | None) -> Iterator[Path]:
    """A folder to write into, which takes its name when all processes have written: nobody leaves before that."""
    draft = target.with_name(f".{target.name}")
    if is_first(group):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    _together(group)
    try:
        yield draft
        if is_first(group):
            sync_tree(draft)
    except BaseException:
        if is_first(group):
            shutil.rmtree(draft, ignore_errors=True)
        raise
    if is_first(group):
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    _together(group)


def _together(group: dist.ProcessGroup | None) -> None:
    if group is not None:
        dist.barrier(group)


class Saver:
    """Writes checkpoints of one run, if need be while training goes on: then from a copy, since the weights move."""

    def __init__(self, scratch: Path, group: dist.ProcessGroup | None = None) -> None:
        self.scratch, self.group = scratch, group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, weights: Tensors, optimizer: Tensors, state: dict[str, Any], *, wait: bool) -> None:
        """`checkpoint.save`; without `wait` it returns when the tensors are copied, after the one before is written.

        Raises:
            FoundlingError: the disk is full, now or at the checkpoint before.
        """
        self.finish()
        if wait:
            save(self.scratch, step, weights, optimizer, state, self.group)
            return
        told = json.loads(json.dumps(state))
        copies = _copied(weights), _copied(optimizer)
        self._pending = self._thread.submit(save, self.scratch, step, *copies, told, self.group)

    def finish(self) -> None:
        """Wait for what is being written. Raises FoundlingError if the disk is full."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _copied(tensors: Tensors) -> Tensors:
    return {name: value.to("cpu", copy=True) for name, value in tensors.items()}


class Snapshot:
    """The trained weights of now, to go back to."""

    def __init__(self, module: nn.Module) -> None:
        self._kept = [(p, p.detach().clone()) for p in module.parameters() if p.requires_grad]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back in place."""
        for parameter, value in self._kept:
            parameter.copy_(value)


def save_weights(folder: Path, weights: Tensors, group: dist.ProcessGroup | None) -> None:
    """A folder of `trained_weights`, whole or absent. Every process of `group` must call it."""
    with _whole_or_absent(folder, group) as draft:
        sharded_files.write(draft, weights, group)


def load_weights(folder: Path, module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Put the weights of a folder that `save_weights` wrote into a module in place."""
    sharded_files.read(folder, trained_weights(module), group)


def step_of(path: Path) -> int:
    """The step a checkpoint was made after."""
    return int(path.name.removeprefix(PREFIX))


def trained_weights(module: nn.Module) -> Tensors:
    """Trained weights (tied ones once), or the pieces of them that this process holds."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def latest(scratch: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = _all(scratch)
    return found[-1] if found else None


def state_of(path: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The state that was saved beside the tensors.

    Raises:
        FoundlingError: the checkpoint belongs to another run (naming what differs), or has an older layout.
    """
    if not (path / WEIGHTS).is_dir():
        raise FoundlingError(f"the checkpoint {path} has an older layout", fix="Delete it to start anew")
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    saved = state["fingerprint"]
    differing = sorted(key for key in {*saved, *fingerprint} if saved.get(key) != fingerprint.get(key))
    if differing:
        key = differing[0]
        what = f"the checkpoint {path} is of another run: {', '.join(differing)} differ"
        why = f"{key} was {saved.get(key)!r} and is now {fingerprint.get(key)!r}"
        raise FoundlingError(what, why, "Restore it, or delete the checkpoint to start anew")
    return state


def _all(scratch: Path) -> list[Path]:
    return sorted(scratch.glob(f"{PREFIX}*"))


def _disk_full(scratch: Path, step: int, error: Exception) -> FoundlingError:
    kept = latest(scratch)
    intact = f"the earlier checkpoint {kept.name} is intact" if kept else "there is no earlier checkpoint"
    what = f"the checkpoint of step {step} could not be written: {error}"
    return FoundlingError(what, intact, "Free some space and run the same command again to go on")
