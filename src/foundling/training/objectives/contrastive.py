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

from foundling.core.rng import numpy_rng, seed_for
from foundling.models.context import Context
from foundling.models.pooling import PoolingConfig, pool
from foundling.training.batch import Batch
from foundling.training.objective import LossSum
from foundling.training.order import Permutation
from foundling.training.token_files import TokenSplit

ABSENT = -1  # id of a negative that a pair does not have
MAX_SCALE = math.log(100.0)  # of the learned inverse temperature, as in CLIP (Radford et al. 2021)


@dataclass(frozen=True)
class Pair:
    """Two token sequences that belong together, and where they come from; perhaps others that do not belong to them.

    Attributes:
        negatives: passages that look right for the query and are not ("hard negatives").
    """

    query: Sequence[int]
    passage: Sequence[int]
    source: str
    negatives: tuple[Sequence[int], ...] = ()


class Pairs(Protocol):
    """Pairs by number: `len(pairs)` and `pairs[n]`, where n runs on in later epochs."""

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
    """A language model whose pooled hidden states are a text's embedding, with the learned inverse temperature."""

    def __init__(self, model: nn.Module, temperature: float = 0.05, pooling: PoolingConfig | None = None) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling or PoolingConfig()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (rows, time), mask (rows, time) not 0 on text, which comes first -> (rows, dim) float32, pooled."""
        real = mask != 0
        hidden = self.model.hidden(tokens, Context.packed(torch.where(real, 0, -1)))  # type: ignore[operator]
        return pool(hidden.float(), real, self.pooling)


class Contrastive:
    """InfoNCE over the pairs of a batch, both ways (van den Oord et al. 2018; SimCSE, Gao et al. 2021).

    Every other passage of the batch, on all processes, is a negative, and so are all pairs' own `negatives`; but not a
    text that another pair of the batch has as a passage of the same query. So the loss of a pair depends on what it is
    batched with: micro-batches are exempt from the rule that parts add up.

    Args:
        pairs: by number. With `Pair(x, x)` and dropout in the model this is unsupervised SimCSE.
        pad_id: fills rows up to the longest.
        negatives: how many of a pair's own negatives are taken; a pair that has fewer is content with those.
    """

    def __init__(
        self, pairs: Pairs, context: int, batch_size: int, seed: int, *, pad_id: int, negatives: int = 0
    ) -> None:
        assert len(pairs) >= 2, "contrast needs at least two pairs"
        self.pairs, self.context, self.batch_size, self.seed, self.pad_id = pairs, context, batch_size, seed, pad_id
        self.negatives = negatives

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Queries as `tokens` and passages as `targets`, both (rows, time); every epoch in another order.

        extra: `passage_mask`; `query_id`, `passage_id` (rows,), equal for equal texts; and with negatives
        `negatives`, `negatives_mask` (rows, negatives, time) and `negatives_id` (rows, negatives).
        """
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = numbers // len(self.pairs)
        chosen = []
        for epoch in np.unique(epochs):
            order = Permutation(len(self.pairs), self.seed, "pairs", epoch)
            places = order[numbers[epochs == epoch] % len(self.pairs)]
            chosen += [self.pairs[int(epoch) * len(self.pairs) + int(place)] for place in places]
        queries, query_mask = self._padded([pair.query for pair in chosen])
        passages, passage_mask = self._padded([pair.passage for pair in chosen])
        extra = {"passage_mask": passage_mask}
        extra |= {"query_id": _ids([pair.query for pair in chosen])}
        extra |= {"passage_id": _ids([pair.passage for pair in chosen])}
        if self.negatives:
            extra |= self._own_negatives([pair.negatives[: self.negatives] for pair in chosen])
        reads = queries.numel() + passages.numel() + (extra["negatives"].numel() if self.negatives else 0)
        return Batch(queries, passages, query_mask, extra=extra, sources=[p.source for p in chosen], reads=reads)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over pairs; metrics: how often the right passage is the nearest."""
        extra = batch.extra
        queries = model.embed(batch.tokens, batch.loss_mask)
        passages = model.embed(batch.targets, extra["passage_mask"])
        all_queries, all_passages = _gathered(queries, passages)
        query_ids, passage_ids = _gathered(extra["query_id"], extra["passage_id"])
        first = _first(len(queries))
        right = torch.arange(first, first + len(queries), device=queries.device)
        same_query, same_passage = extra["query_id"][:, None] == query_ids, extra["passage_id"][:, None] == passage_ids
        scale = model.log_scale.float().clamp(max=MAX_SCALE).exp()
        forward = _apart(scale * queries @ all_passages.mT, same_query, passage_ids[:, None] == passage_ids, right)
        backward = _apart(scale * passages @ all_queries.mT, same_passage, query_ids[:, None] == query_ids, right)
        if self.negatives:
            negatives, negative_ids = self._embedded_negatives(model, extra)
            asked = _any(same_query, passage_ids[:, None] == negative_ids) | (negative_ids == ABSENT)
            forward = torch.cat([forward, (scale * queries @ negatives.mT).masked_fill(asked, -torch.inf)], 1)
        loss = functional.cross_entropy(forward, right, reduction="sum")
        loss = (loss + functional.cross_entropy(backward, right, reduction="sum")) / 2
        hits = (forward.argmax(-1) == right).sum()
        return LossSum(loss, len(queries), {"nearest": (hits, len(queries)), "temperature": (1 / scale.detach(), 1)})

    def _own_negatives(self, texts: Sequence[Sequence[Sequence[int]]]) -> dict[str, Tensor]:
        shape, filler = (len(texts), self.negatives), [self.pad_id]  # a row without text would give no number
        tokens, mask = self._padded([ids for own in texts for ids in [*own, *[filler] * (self.negatives - len(own))]])
        ids = [[*_ids(own).tolist(), *[ABSENT] * (self.negatives - len(own))] for own in texts]
        each = {"negatives": tokens.unflatten(0, shape), "negatives_mask": mask.unflatten(0, shape)}
        return each | {"negatives_id": torch.tensor(ids)}

    def _embedded_negatives(self, model: Any, extra: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Vectors and ids of the negatives of all pairs; a process by itself leaves out those that are not there."""
        tokens, mask, ids = (extra[name].flatten(0, 1) for name in ("negatives", "negatives_mask", "negatives_id"))
        there = ids != ABSENT
        if not _spread() and bool(there.any()):
            tokens, mask, ids = tokens[there], mask[there], ids[there]
        return _gathered(model.embed(tokens, mask), ids)

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        length = max(1, min(self.context, max(map(len, texts))))
        tokens, mask = torch.full((len(texts), length), self.pad_id), torch.zeros(len(texts), length)
        for row, text in enumerate(texts):
            ids = torch.tensor(list(text[:length]), dtype=torch.int64)
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        return tokens, mask


def _ids(texts: Sequence[Sequence[int]]) -> Tensor:
    """(texts,) int64: a hash of each, equal for equal texts."""
    return torch.tensor([seed_for("text", *text) for text in texts])


def _apart(scores: Tensor, same: Tensor, equal: Tensor, right: Tensor) -> Tensor:
    """The scores without what is right, too, and not the pair's own: what stands with an equal text on the other side.

    Args:
        scores: (rows, all).
        same: (rows, all): pairs that ask the same.
        equal: (all, all): pairs whose answers are the same text.
        right: (rows,) the pairs' own places.
    """
    also = _any(same, equal)
    also[torch.arange(len(right), device=right.device), right] = False
    return scores.masked_fill(also, -torch.inf)


def _any(a: Tensor, b: Tensor) -> Tensor:
    """(n, k) and (k, m) bool -> (n, m): whether there is a way through."""
    return a.float() @ b.float() > 0


def _spread() -> bool:
    return dist.is_available() and dist.is_initialized()


def _first(rows: int) -> int:
    """Where this process's rows begin among those of all."""
    return dist.get_rank() * rows if _spread() else 0


def _gathered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, differentiable."""
    return tuple(torch.cat(all_gather(tensor)) for tensor in tensors) if _spread() else tensors
