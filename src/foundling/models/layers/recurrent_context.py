"""What recurrent mixers read from a `Context`: where documents start, which tokens count, and whose state is whose.

A recurrent mixer's state is a tuple of tensors whose first dimension is the slot: one O(1) entry per sequence. In a
cached call row `r` goes on from slot `state_slots[r]` (from nothing if `lengths[r] == 0`) and only its first
`new_lengths[r]` tokens count; in an uncached call every row starts from nothing and the state is reset wherever the
segment changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from foundling.models.context import Context

State = tuple[Tensor, ...]


def new_slots(slots: int, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device | str) -> State:
    """A zeroed state: one tensor (slots, *shape) for each shape."""
    return tuple(torch.zeros(slots, *shape, dtype=dtype, device=device) for shape in shapes)


def read_slots(state: State | None, ctx: Context, empty: Sequence[float] | None = None) -> State | None:
    """The rows' states before this call, or None outside cached decoding.

    Args:
        empty: what each tensor holds in rows that have nothing cached; zeros if None.
    """
    if state is None:
        return None
    assert ctx.cache is not None, "a state needs ctx.cache"
    slots, fresh = ctx.cache.state_slots, ctx.cache.lengths == 0
    rows = []
    for part, value in zip(state, empty or [0.0] * len(state), strict=True):
        fill = fresh.view(-1, *[1] * (part.dim() - 1))
        rows.append(part.index_select(0, slots).masked_fill(fill, value))
    return tuple(rows)


def write_slots(state: State | None, ctx: Context, new: Sequence[Tensor]) -> None:
    """Store the rows' states after this call, in place; nothing to do outside cached decoding."""
    if state is None:
        return
    assert ctx.cache is not None, "a state needs ctx.cache"
    for part, value in zip(state, new, strict=True):
        part.index_copy_(0, ctx.cache.state_slots, value.to(part.dtype))


def resets(ctx: Context) -> Tensor | None:
    """(rows, time) bool: True where the state must be dropped before the token; None if it never must be."""
    return ctx.once("resets", lambda: _resets(ctx))


def _resets(ctx: Context) -> Tensor | None:
    if ctx.segments is None or ctx.cache is not None:
        return None
    changed = ctx.segments[:, 1:] != ctx.segments[:, :-1]
    return F.pad(changed, (1, 0), value=True) if bool(changed.any()) else None


def valid(ctx: Context, time: int) -> Tensor | None:
    """(rows, time) bool: False for padding that must leave the state as it is; None if every token counts."""
    if ctx.cache is None:
        return None
    lengths = ctx.cache.new_lengths
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def last_valid(x: Tensor, ctx: Context, width: int = 1) -> Tensor:
    """The `width` entries that end with each row's last valid token.

    Args:
        x: (rows, width + time, ...): what came before this call (width entries), then this call's time entries.

    Returns:
        (rows, width, ...), zeros-free: entries from before the call fill up rows with fewer new tokens than `width`.
    """
    if ctx.cache is None:
        return x[:, -width:]
    index = ctx.cache.new_lengths[:, None] + torch.arange(width, device=x.device)
    index = index.view(*index.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


def token_shift(x: Tensor, ctx: Context, before: Tensor | None = None) -> Tensor:
    """Each position's predecessor in its own document, zero at a document's start.

    Args:
        x: (rows, time, dim).
        before: (rows, dim), the token before this call, in cached decoding.
    """
    previous = F.pad(x[:, :-1], (0, 0, 1, 0)) if before is None else torch.cat([before[:, None].to(x), x[:, :-1]], 1)
    starts = resets(ctx)
    return previous if starts is None else previous.masked_fill(starts[..., None], 0.0)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, ctx: Context, before: Tensor | None) -> Tensor:
    """Depthwise causal convolution that does not reach over a document's start.

    Written as `width` shifted multiplications: for the usual width of 4 this is several times faster on a CPU, forward
    and backward, than a grouped convolution, and each shift can be masked by document.

    Args:
        x: (rows, time, dim).
        weight: (dim, width); `weight[:, -1]` multiplies the token itself.
        before: (rows, width - 1, dim), the inputs before this call, in cached decoding.
    """
    time, width = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, width - 1, 0)) if before is None else torch.cat([before.to(x), x], 1)
    starts = resets(ctx)
    document = None if starts is None else starts.cumsum(1)
    out = x * weight[:, -1] if bias is None else torch.addcmul(bias, x, weight[:, -1])
    for back in range(1, width):
        shifted = padded[:, width - 1 - back : width - 1 - back + time]
        if document is not None:
            same = F.pad(document[:, :-back] == document[:, back:], (back, 0))[:, :time]
            shifted = shifted * same[..., None]
        out = torch.addcmul(out, shifted, weight[:, -1 - back])
    return out


def unpack(x: Tensor, ctx: Context) -> tuple[Tensor, Tensor] | None:
    """Lay packed documents out one per row, for mixers that cannot reset in mid-row (long convolutions, LSTM).

    Returns:
        None if no row holds more than one document; else the documents (documents, longest, dim), padded at their end
        with zeros, and `where` (rows, time), each token's index in the flattened documents (see `repack`).
    """
    starts = resets(ctx)
    if starts is None:
        return None
    rows, time, dim = x.shape
    document = starts.flatten().cumsum(0) - 1
    first = starts.flatten().nonzero()[:, 0]
    offset = torch.arange(rows * time, device=x.device) - first[document]
    longest = int(offset.max()) + 1
    where = document * longest + offset
    documents = x.new_zeros(first.numel() * longest, dim).index_copy(0, where, x.reshape(-1, dim))
    return documents.view(first.numel(), longest, dim), where.view(rows, time)


def repack(documents: Tensor, where: Tensor) -> Tensor:
    """Undo `unpack`: (documents, longest, dim) -> (rows, time, dim)."""
    flat = documents.reshape(-1, documents.shape[-1])
    return flat.index_select(0, where.flatten()).view(*where.shape, -1)
