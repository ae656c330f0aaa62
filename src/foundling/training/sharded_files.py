"""Named tensors as a folder of safetensors files, without pickle: of a lone process one file, of several one each.

    FOLDER/model.safetensors                                         a lone process
    FOLDER/shard-00002-model-00001-of-00001.safetensors, ...         the pieces that the second of several holds

The layout is that of `torch.distributed.checkpoint`'s Hugging Face storage: each file says where its pieces belong, so
that any number of processes can read what any other number wrote, and no process ever holds a whole model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from foundling.core.errors import FoundlingError

Tensors = dict[str, Tensor]


def is_first(group: dist.ProcessGroup | None) -> bool:
    """Whether this process is alone, or the first of its group: the one that makes and renames folders."""
    return group is None or dist.get_rank(group) == 0


def write(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Write tensors into an empty folder; every process of `group` must call it, and returns when all have written.

    Args:
        group: the processes among which distributed tensors are spread; None for one that is alone.

    Raises:
        OSError, SafetensorError: this process, or another of the group, could not write.
    """
    if group is None:
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
        return
    try:
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
    except dcp.CheckpointException as error:  # the failures of all processes, and no Exception
        raise next(iter(error.failures.values()))[0] from None


def read(folder: Path, into: Tensors, group: dist.ProcessGroup | None = None) -> None:
    """Fill tensors in place, whole or distributed, from a folder that `write` filled; every process must call it.

    Raises:
        FoundlingError: a file is damaged, or a tensor is missing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled")  # that is what no_dist asks for
        try:
            dcp.load(into, storage_reader=_reader(folder), process_group=group, no_dist=group is None)
        except dcp.CheckpointException as error:
            raise _unreadable(folder, next(iter(error.failures.values()))[0]) from None


def contents(folder: Path) -> Tensors:
    """What a folder holds: tensors on the meta device, with whole shapes. Raises FoundlingError if it is damaged."""
    try:
        found = _reader(folder).read_metadata().state_dict_metadata
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from None
    return {
        name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        for name, entry in found.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _unreadable(folder: Path, error: BaseException) -> FoundlingError:
    return FoundlingError(f"{folder} cannot be read", str(error).splitlines()[0], "Delete the checkpoint to start anew")


def _reader(folder: Path) -> dcp.HuggingFaceStorageReader:
    return dcp.HuggingFaceStorageReader(str(folder))
