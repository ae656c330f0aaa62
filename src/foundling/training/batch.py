"""A step's data: what goes in, what is to be predicted, what counts, and where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class Batch:
    """Rows of tokens with what is needed to score them. Every tensor's first dimension is the rows.

    Args:
        tokens: (rows, time) int64 inputs.
        targets: (rows, time) int64; what each position must predict.
        loss_mask: (rows, time) float32 or bool: the weight of each target; 0 is not scored.
        segments: (rows, time) int64, or None: tokens attend only within equal segments; -1 is padding.
        extra: whatever else the objective needs, by name; (rows, ...) each.
        sources: per row, the documents it came from: for error messages.
        reads: positions that the model reads, where they are not those of `tokens` alone.
    """

    tokens: Tensor
    targets: Tensor
    loss_mask: Tensor
    segments: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    reads: int | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.tokens.shape[0]

    def read(self) -> int:
        """How many positions the model reads, padding included."""
        return self.tokens.numel() if self.reads is None else self.reads

    def scored(self) -> float:
        """The summed weight of the targets: what the loss is divided by."""
        return float(self.loss_mask.sum(dtype=torch.float64))

    def slice(self, start: int, stop: int) -> Batch:
        """Rows [start, stop)."""
        return replace(self._mapped(lambda x: x[start:stop]), sources=self.sources[start:stop])

    def split(self, micro_batch: int) -> list[Batch]:
        """Parts of at most `micro_batch` rows, in order; 0: the whole batch as one part."""
        size = micro_batch or self.rows
        return [self.slice(start, start + size) for start in range(0, self.rows, size)]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self if self.tokens.device == device else self._mapped(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory from which a GPU can copy while it computes."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            tokens=change(self.tokens),
            targets=change(self.targets),
            loss_mask=change(self.loss_mask),
            segments=None if self.segments is None else change(self.segments),
            extra={name: change(value) for name, value in self.extra.items()},
        )
