"""Meeting the other processes of a run, also when `torchrun` has started all of them again."""

from __future__ import annotations

import atexit
import os
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist

from foundling.core.errors import FoundlingError
from foundling.core.hardware import device

POLL_S = 0.05


def join() -> int:
    """Meet the other processes, if `torchrun` started this one; returns this process's rank.

    Raises:
        FoundlingError: not all processes came.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            here, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if here >= found:
                what = f"process {here + 1} of this machine has no GPU of its own: there are {found}"
                raise FoundlingError(what, fix=f"Set processes to {found}")
            backend = "cuda:nccl,cpu:gloo"
            torch.cuda.set_device(device())
        timeout = timedelta(seconds=float(os.environ.get("FOUNDLING_JOIN_S", "600")))
        try:
            store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
            fresh = dist.PrefixStore(agree_on_name(store, rank, size, timeout), store)
            dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=timeout)
            atexit.register(leave)
        except (dist.DistStoreError, dist.DistNetworkError) as error:
            what = f"not all {os.environ['WORLD_SIZE']} processes came"
            raise FoundlingError(what, str(error).splitlines()[0], "Start as many as WORLD_SIZE says") from error
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def leave() -> None:
    """Leave the group while its threads can still be joined: at a process's very end they may abort it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def agree_on_name(store: dist.Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that only the processes which are here now know; every one of them returns the same.

    `torchrun` keeps one store over its restarts, with the addresses of processes that are gone: without a name of
    their own, those that start again may connect to them. Its restart count will not do, since each machine counts for
    itself. So every process says its own name, and the first answers each with the name of the meeting.

    Raises:
        DistStoreError: not all came within `timeout`.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"foundling/here/{rank}", mine)
        store.wait([f"foundling/meeting/{mine}"], timeout)
        meeting = store.get(f"foundling/meeting/{mine}").decode()
        store.set(f"foundling/came/{meeting}/{rank}", "")
        return meeting
    deadline = time.monotonic() + timeout.total_seconds()
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            if store.check([f"foundling/here/{other}"]):
                store.set(f"foundling/meeting/{store.get(f'foundling/here/{other}').decode()}", mine)
        missing = {other for other in missing if not store.check([f"foundling/came/{mine}/{other}"])}
        if time.monotonic() > deadline:
            raise dist.DistStoreError(
                f"processes {sorted(missing)} did not come within {timeout.total_seconds():.0f} s"
            )
        if missing:
            time.sleep(POLL_S)
    return mine
