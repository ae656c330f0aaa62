"""Checkpoints of a run in progress: whole or absent, without pickle, and refused by a run they do not belong to.

    SCRATCH/checkpoint-00000400/   weights.safetensors, optimizer.safetensors, state.json

Resuming is exact to the bit: data order and dropout are functions of (seed, step), so the weights, the optimizer's
state and the step are all there is.
"""

from __future__ import annotations

import errno
import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.core.files import sync_tree, write_json
from foundling.training.optimizers.build import Optimizers
from foundling.training.world import part_of, whole

PREFIX = "checkpoint-"
Tensors = dict[str, Tensor]


def save(scratch: Path, step: int, weights: Tensors, optimizer: Tensors, state: dict[str, Any]) -> Path:
    """Write the checkpoint of `step`, then delete the older ones.

    Args:
        weights: see `trained_weights`.
        optimizer: see `Optimizers.state`.

    Raises:
        FoundlingError: the disk is full. The earlier checkpoint is intact.
    """
    target = scratch / f"{PREFIX}{step:08d}"
    draft = scratch / f".{target.name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        save_file({name: value.contiguous() for name, value in weights.items()}, draft / "weights.safetensors")
        save_file({name: value.contiguous() for name, value in optimizer.items()}, draft / "optimizer.safetensors")
        write_json(draft / "state.json", state)
        sync_tree(draft)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(scratch, step, error) from error
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    for older in _all(scratch)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return target


class Saver:
    """Writes checkpoints of one run, if need be while training goes on: then from a copy, since the weights move."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def save(self, step: int, weights: Tensors, optimizer: Tensors, state: dict[str, Any], *, wait: bool) -> None:
        """`checkpoint.save`; without `wait` it returns when the tensors are copied, after the one before is written.

        Raises:
            FoundlingError: the disk is full, now or at the checkpoint before.
        """
        self.finish()
        if wait:
            save(self.scratch, step, weights, optimizer, state)
            return
        told = json.loads(json.dumps(state))
        self._pending = self._thread.submit(save, self.scratch, step, _copied(weights), _copied(optimizer), told)

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


def save_weights(file: Path, weights: Tensors) -> None:
    """A file of `trained_weights`, whole or absent."""
    draft = file.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in weights.items()}, draft)
    draft.replace(file)


def load_weights(file: Path, module: nn.Module) -> None:
    """Put the weights of a file that holds `trained_weights` into a module in place."""
    parameters = dict(module.named_parameters())
    for name, value in load_file(file).items():
        parameters[name].data.copy_(part_of(value, parameters[name]))


def step_of(path: Path) -> int:
    """The step a checkpoint was made after."""
    return int(path.name.removeprefix(PREFIX))


def trained_weights(module: nn.Module) -> Tensors:
    """Trained weights (tied ones once), put together. Every process must call it."""
    return {name: whole(p.detach()) for name, p in module.named_parameters() if p.requires_grad}


def latest(scratch: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = _all(scratch)
    return found[-1] if found else None


def load(
    path: Path, module: nn.Module, optimizers: Optimizers, fingerprint: dict[str, Any]
) -> tuple[dict[str, Any], Tensors]:
    """Restore weights and optimizer in place; returns the state, and the tensors that are not the optimizers'.

    Raises:
        FoundlingError: the checkpoint belongs to another run: naming what differs.
    """
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    saved = state["fingerprint"]
    differing = sorted(key for key in {*saved, *fingerprint} if saved.get(key) != fingerprint.get(key))
    if differing:
        key = differing[0]
        what = f"the checkpoint {path} is of another run: {', '.join(differing)} differ"
        why = f"{key} was {saved.get(key)!r} and is now {fingerprint.get(key)!r}"
        raise FoundlingError(what, why, "Restore it, or delete the checkpoint to start anew")
    load_weights(path / "weights.safetensors", module)
    tensors = load_file(path / "optimizer.safetensors")
    own = {name: value for name, value in tensors.items() if "|" in name}
    optimizers.load_state(own)
    return state, {name: value for name, value in tensors.items() if name not in own}


def _all(scratch: Path) -> list[Path]:
    return sorted(scratch.glob(f"{PREFIX}*"))


def _disk_full(scratch: Path, step: int, error: Exception) -> FoundlingError:
    kept = latest(scratch)
    intact = f"the earlier checkpoint {kept.name} is intact" if kept else "there is no earlier checkpoint"
    what = f"the checkpoint of step {step} could not be written: {error}"
    return FoundlingError(what, intact, "Free some space and run the same command again to go on")
