"""How many bits a model needs for each byte of held-out text: comparable across tokenizers and with compressors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foundling.training.batch import Batch
from foundling.training.loss import cross_entropy_sum
from foundling.training.token_files import TokenSplit

ROWS = 16
SOURCES = 12  # of so many, the largest, the loss is told apart
PLACES = (0, 16, 64, 256, 1024, 4096, 16384)  # where the buckets of places in a row begin


class HeldOut:
    """The first documents of a split, cut into rows that are scored once each.

    A row never spans two documents: every document is predicted from its own text alone, from its end-of-text on.

    Args:
        context: tokens in a row.
        tokens: whole documents are taken until this many tokens; at least one document.
    """

    def __init__(self, split: TokenSplit, context: int, tokens: int) -> None:
        count = int(np.searchsorted(split.starts[1:], tokens, side="right"))
        self.split, self.context, self.documents = split, context, max(1, count)
        self.bytes = int(split.bytes[: self.documents].sum())
        self.source_bytes = self._source_bytes()
        self.rows: list[tuple[str, int, int]] = []  # (source, start, targets) of each row in the stream
        for index in range(self.documents):
            start, end = int(split.starts[index]), int(split.starts[index + 1])
            source = self._source(index)
            self.rows += [(source, at, min(context, end - 1 - at)) for at in range(start, end - 1, context)]
        self.rows.sort(key=lambda row: (row[0], -row[2]))
        self.tokens = sum(length for _, _, length in self.rows)

    def documents_tokens(self) -> Iterator[NDArray[np.int64]]:
        """The tokens of each held-out document, its end-of-text first."""
        return (self.split.document(index) for index in range(self.documents))

    def _source_bytes(self) -> dict[str, int]:
        """The largest sources by name; {} if there is one only."""
        kinds, split = self.split.source[: self.documents], self.split
        sizes = np.bincount(kinds, split.bytes[: self.documents], len(split.sources)).astype(int)
        largest = [int(number) for number in np.argsort(-sizes)[:SOURCES] if sizes[number]]
        return {split.sources[number]: int(sizes[number]) for number in largest} if len(largest) > 1 else {}

    def _source(self, document: int) -> str:
        name = self.split.sources[self.split.source[document]] if self.source_bytes else ""
        return name if name in self.source_bytes else ""

    def score(self, module: nn.Module) -> dict[str, float]:
        """`bits_per_byte` and `nats_per_token` of the module on these documents.

        Also the former by source (`bits_per_byte/NAME`, of the largest, where there are several), and the latter by
        place in the row: a model that uses its context predicts later tokens better. `nats_per_token_from_64` is of
        places 64 to 255.
        """
        bounds = [start for start in PLACES if start < self.context]
        nats, counts = dict.fromkeys(bounds, 0.0), dict.fromkeys(bounds, 0.0)
        by_source = dict.fromkeys(self.source_bytes, 0.0)
        device = next(module.parameters()).device
        for source, of_source in groupby(self.rows, key=lambda row: row[0]):
            before, rows = sum(nats.values()), list(of_source)
            for first in range(0, len(rows), ROWS):
                batch = self._batch(rows[first : first + ROWS]).to(device)
                hidden = cast(Any, module).hidden(batch.tokens)  # (rows, time, dim)
                for start, end in pairwise([*bounds, self.context]):
                    part = slice(start, end)
                    mask = batch.loss_mask[:, part]
                    nats[start] += float(cross_entropy_sum(hidden[:, part], module, batch.targets[:, part], mask))
                    counts[start] += float(mask.sum())
            if source in by_source:
                by_source[source] = sum(nats.values()) - before
        total = sum(nats.values())
        return {
            "bits_per_byte": total / math.log(2) / max(self.bytes, 1),
            "nats_per_token": total / max(self.tokens, 1),
            **{f"nats_per_token_from_{start}": nats[start] / counts[start] for start in bounds if counts[start]},
            **{f"bits_per_byte/{name}": by_source[name] / math.log(2) / n for name, n in self.source_bytes.items()},
        }

    def _batch(self, rows: list[tuple[str, int, int]]) -> Batch:
        longest = rows[0][2]
        tokens = np.full((len(rows), longest + 1), self.split.eot_id, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.float32)
        for row, (_, start, length) in enumerate(rows):
            tokens[row, : length + 1] = self.split.window(start, length + 1)
            mask[row, :length] = 1
        inputs: Any = torch.from_numpy(tokens)
        return Batch(inputs[:, :-1], inputs[:, 1:], torch.from_numpy(mask))
