"""Packing groups of sequences that are scored together (a pair of answers, say) into rows, none cut apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foundling.post_training.packing import Encoded
from foundling.training.batch import Batch

Group = tuple[Encoded, ...]
WHOLE = 32  # rows are a multiple of so many tokens: attention in a CPU's tiles takes no others


def pack_groups(groups: Sequence[Group], context: int, pad_id: int, extra: dict[str, Tensor] | None = None) -> Batch:
    """Rows of whole groups, in the order of the groups' sizes. All groups have the same number of sequences.

    Sequence j of the group in slot k of a row has the segment number k · len(group) + j.

    Args:
        context: room in a row, which is then rounded up to whole tiles; a longer group gets a wider row.
        extra: per group, (groups, ...): comes back as (rows, slots, ...), beside "present" (rows, slots), which is 1
            where a slot holds a group.
    """
    sizes = [sum(len(one.ids) - 1 for one in group) for group in groups]
    rows = _assign(sizes, max(context, *sizes))
    width = -(-max(sum(sizes[g] for g in members) for members in rows) // WHOLE) * WHOLE
    per_group, slots = len(groups[0]), max(len(members) for members in rows)
    tokens, targets = np.full((len(rows), width), pad_id), np.full((len(rows), width), pad_id)
    mask, segments = np.zeros((len(rows), width), np.float32), np.full((len(rows), width), -1)
    order = torch.zeros(len(rows), slots, dtype=torch.int64)
    present = torch.zeros(len(rows), slots)
    for r, members in enumerate(rows):
        at = 0
        for slot, index in enumerate(members):
            order[r, slot], present[r, slot] = index, 1.0
            for j, one in enumerate(groups[index]):
                span = slice(at, at := at + len(one.ids) - 1)
                tokens[r, span], targets[r, span] = one.ids[:-1], one.ids[1:]
                mask[r, span], segments[r, span] = one.mask[1:], slot * per_group + j
    sources = [", ".join(groups[g][0].source for g in members) for members in rows]
    arrays = [torch.from_numpy(a) for a in (tokens, targets, mask, segments)]
    more = {name: value[order] for name, value in (extra or {}).items()}
    return Batch(arrays[0], arrays[1], arrays[2], arrays[3], extra={"present": present} | more, sources=sources)


def _assign(sizes: Sequence[int], room: int) -> list[list[int]]:
    """First-fit decreasing: which groups share a row."""
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda g: (-sizes[g], g)):
        found = next((r for r, free in enumerate(left) if free >= sizes[index]), None)
        if found is None:
            found = len(rows)
            rows.append([])
            left.append(room)
        rows[found].append(index)
        left[found] -= sizes[index]
    return rows
