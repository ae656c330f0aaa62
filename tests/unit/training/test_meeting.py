"""Processes that `torchrun` started again must meet each other, and not those that are gone."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from foundling.training.meeting import agree_on_name

SOON = timedelta(seconds=20)


def meet(store: dist.Store, size: int, late: float = 0.0) -> list[str]:
    """What each process returns; those after the first come `late` seconds later."""
    names = [""] * size

    def one(rank: int) -> None:
        time.sleep(late if rank else 0)
        names[rank] = agree_on_name(store.clone(), rank, size, SOON)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def test_all_return_one_name_that_no_earlier_meeting_had() -> None:
    """The first process finds the names of the dead in the store, answers them, and must still wait for the living."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, multi_tenant=True)
    names = [meet(store, 3, late) for late in (0.0, 0.3, 0.0)]
    assert all(len(set(of_all)) == 1 for of_all in names)
    assert len({of_all[0] for of_all in names}) == 3


def test_says_who_did_not_come() -> None:
    """A process of an earlier meeting that left its name behind does not count as come."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, multi_tenant=True)
    store.set("foundling/here/1", "gone")
    with pytest.raises(dist.DistStoreError, match=r"processes \[1\] did not come within 0 s"):
        agree_on_name(store, 0, 2, timedelta(seconds=0.2))
