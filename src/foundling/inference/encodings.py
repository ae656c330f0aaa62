"""What the encoder of an encoder-decoder made of each source: kept while there is room, joined for a pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from foundling.inference.scheduler import Sequence
from foundling.models.context import Encoded

BATCHES = 2  # joined batches whose keys and values are kept: the decoding one, and one of beginners


class Encodings:
    """Encoder outputs by `Sequence.root`. What has been evicted is encoded again when it is needed.

    Args:
        room: most tokens kept; those of one pass are kept whatever they need.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._hidden: OrderedDict[bytes, Tensor] = OrderedDict()  # (source time, dim) each, the oldest first
        self._batches: OrderedDict[tuple[bytes, ...], Encoded] = OrderedDict()

    def missing(self, sequences: Seq[Sequence]) -> list[Sequence]:
        """One sequence for each source that has to be encoded."""
        unique = {sequence.root: sequence for sequence in sequences}
        return [sequence for root, sequence in unique.items() if root not in self._hidden]

    def keep(self, sequences: Seq[Sequence], hidden: Tensor) -> None:
        """Remember encoder outputs (rows, time, dim), one row per sequence, padded at the end."""
        for row, sequence in enumerate(sequences):
            self._hidden[sequence.root] = hidden[row, : len(sequence.source)].clone()

    def joined(self, sequences: Seq[Sequence]) -> Encoded:
        """The encoder outputs of a pass, one row per sequence; the same object while the rows stay the same."""
        roots = tuple(sequence.root for sequence in sequences)
        if roots not in self._batches:
            found = [self._hidden[root] for root in roots]
            segments = torch.full((len(found), max(map(len, found))), -1, device=found[0].device)
            hidden = found[0].new_zeros(*segments.shape, found[0].shape[1])
            for row, one in enumerate(found):
                hidden[row, : len(one)], segments[row, : len(one)] = one, 0
            self._batches[roots] = Encoded(hidden, segments)
        self._batches.move_to_end(roots)
        while len(self._batches) > BATCHES:
            self._batches.popitem(last=False)
        for root in roots:
            self._hidden.move_to_end(root)
        while sum(map(len, self._hidden.values())) > self.room and next(iter(self._hidden)) not in roots:
            self._hidden.popitem(last=False)
        return self._batches[roots]

    def clear(self) -> None:
        """Forget everything: the weights have changed."""
        self._hidden.clear()
        self._batches.clear()
