"""Contrastive learning of embeddings: the two halves of a pair near each other, far from everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from foundling.core.rng import numpy_rng
from foundling.training.batch import Batch
from foundling.training.objective import LossSum
from foundling.training.order import Permutation
from foundling.training.token_files import TokenSplit

MAX_SCALE = math.log(100.0)  # of the learned inverse temperature, as in CLIP (Radford et al. 2021)


@dataclass(frozen=True)
class Pair:
    """Two token sequences that belong together, and where they come from."""

    query: Sequence[int]
    passage: Sequence[int]
    source: str


class Pairs(Protocol):
    """Pairs by number: `len(pairs)` and `pairs[n]`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


class Crops:
    """Two random crops of each document: pairs from plain text (Izacard et al. 2022, Contriever).

    Args:
        length: tokens in a crop. Documents too short for one are left out.
    """

    def __init__(self, split: TokenSplit, length: int, seed: int) -> None:
        self.split, self.length, self.seed = split, length, seed
        self.documents = np.flatnonzero(np.diff(split.starts) > length)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Pair:
        document = int(self.documents[index % len(self)])
        tokens = self.split.document(document)
        at = numpy_rng(self.seed, "crops", index).integers(0, len(tokens) - self.length + 1, size=2)
        query, passage = (tokens[start : start + self.length].tolist() for start in at)
        return Pair(query, passage, f"{self.split.name} document {document}")


class Embedder(nn.Module):
    """A language model whose mean hidden state is a text's embedding, with the learned inverse temperature."""

    def __init__(self, model: nn.Module, temperature: float = 0.05) -> None:
        super().__init__()
        self.model = model
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (rows, time), mask (rows, time) True on text -> (rows, dim) float32 of length one."""
        hidden = self.model.hidden(tokens).float()  # type: ignore[operator]
        mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return functional.normalize(mean, dim=-1)


class Contrastive:
    """InfoNCE over the pairs of a batch, both ways (van den Oord et al. 2018; SimCSE, Gao et al. 2021).

    Every other passage of the batch, on all processes, is a negative. So the loss of a pair depends on what it is
    batched with: micro-batches are exempt from the rule that parts add up.

    Args:
        pairs: by number. With `Pair(x, x)` and dropout in the model this is unsupervised SimCSE.
        pad_id: fills rows up to the longest.
    """

    def __init__(self, pairs: Pairs, context: int, batch_size: int, seed: int, *, pad_id: int) -> None:
        assert len(pairs) >= 2, "contrast needs at least two pairs"
        self.pairs, self.context, self.batch_size, self.seed, self.pad_id = pairs, context, batch_size, seed, pad_id

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Queries as `tokens` and passages as `targets`, both (rows, time); every epoch in another order."""
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = numbers // len(self.pairs)
        order = {e: Permutation(len(self.pairs), self.seed, "pairs", e) for e in np.unique(epochs)}
        chosen = [
            self.pairs[int(order[e][np.array([n % len(self.pairs)])][0])] for n, e in zip(numbers, epochs, strict=True)
        ]
        queries, query_mask = self._padded([pair.query for pair in chosen])
        passages, passage_mask = self._padded([pair.passage for pair in chosen])
        extra = {"passage_mask": passage_mask}
        return Batch(queries, passages, query_mask, extra=extra, sources=[pair.source for pair in chosen])

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over pairs; metrics: how often the right passage is the nearest."""
        queries = model.embed(batch.tokens, batch.loss_mask)
        passages = model.embed(batch.targets, batch.extra["passage_mask"])
        all_queries, all_passages, first = _gathered(queries, passages)
        scale = model.log_scale.float().clamp(max=MAX_SCALE).exp()
        right = torch.arange(first, first + len(queries), device=queries.device)
        forward, backward = scale * queries @ all_passages.mT, scale * passages @ all_queries.mT
        loss = functional.cross_entropy(forward, right, reduction="sum")
        loss = (loss + functional.cross_entropy(backward, right, reduction="sum")) / 2
        hits = (forward.argmax(-1) == right).sum()
        return LossSum(loss, len(queries), {"nearest": (hits, len(queries)), "temperature": (1 / scale.detach(), 1)})

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        length = min(self.context, max(map(len, texts)))
        tokens, mask = torch.full((len(texts), length), self.pad_id), torch.zeros(len(texts), length)
        for row, text in enumerate(texts):
            ids = torch.tensor(list(text[:length]))
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        return tokens, mask


def _gathered(queries: Tensor, passages: Tensor) -> tuple[Tensor, Tensor, int]:
    """The embeddings of all processes, differentiable, and where this process's begin."""
    if not (dist.is_available() and dist.is_initialized()):
        return queries, passages, 0
    return torch.cat(all_gather(queries)), torch.cat(all_gather(passages)), dist.get_rank() * len(queries)
