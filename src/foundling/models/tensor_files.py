"""The tensors of a model directory: one safetensors file or several with an index; memory-mapped, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foundling.core.errors import FoundlingError
from foundling.core.units import human_bytes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


class TensorSource(Protocol):
    """Tensors by name, of a directory of safetensors or of a GGUF file."""

    directory: Path

    @property
    def names(self) -> set[str]:
        """All tensors there are."""
        ...

    def file_of(self, name: str) -> Path:
        """The file a tensor lies in."""
        ...

    def get(self, name: str) -> Tensor:
        """The tensor."""
        ...


class TensorFiles:
    """Reads tensors by name; a tensor shares the file's memory map until it is changed or converted.

    Raises:
        FoundlingError: naming the file that is missing, truncated or not what the index says.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._opened = {file: _open(directory / file) for file in _shards(directory)}
        self._file_of = {name: file for file, handle in self._opened.items() for name in handle.keys()}  # noqa: SIM118

    @property
    def names(self) -> set[str]:
        """All tensors there are."""
        return set(self._file_of)

    def file_of(self, name: str) -> Path:
        """The file a tensor lies in."""
        return self.directory / self._file_of[name]

    def get(self, name: str) -> Tensor:
        """The tensor, in the file's dtype."""
        tensor: Tensor = self._opened[self._file_of[name]].get_tensor(name)
        return tensor


def write_tensors(tensors: Mapping[str, Tensor], directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write model.safetensors, or numbered shards and their index where it would exceed `shard_bytes`."""
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + tensor.nbytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor.detach().contiguous()
        used += tensor.nbytes
    if len(shards) == 1:
        _save(shards[0], directory / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(shard, directory / file)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")  # the old file may be memory-mapped by the very model being saved
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(path)


def _shards(directory: Path) -> list[str]:
    if (directory / SINGLE).is_file():
        return [SINGLE]
    index = directory / INDEX
    if not index.is_file():
        pickled = sorted(file.name for file in directory.iterdir() if file.suffix in {".bin", ".pt", ".pth"})
        why = f"it has {pickled[0]}, but pickled weights can run code and are never read" if pickled else ""
        raise FoundlingError(f"{directory} has neither {SINGLE} nor {INDEX}", why or "expected a model directory")
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise FoundlingError(f"{index} is not a safetensors index", str(error)) from None
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        raise FoundlingError(f"shard {directory / missing[0]} is missing", f"{INDEX} names it")
    return files


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        size = human_bytes(path.stat().st_size)
        raise FoundlingError(
            f"{path} ({size}) is truncated or not a safetensors file", str(error), "Download or write it again."
        ) from None
