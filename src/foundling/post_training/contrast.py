"""The stage `contrast`: a model's texts as vectors, taught by pairs that belong together.

The result is read by sentence-transformers, and embeds behind `/v1/embeddings` and in `Model.embed` as it was trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.hardware import device
from foundling.core.rng import numpy_rng, seed_for
from foundling.core.stages import Inputs
from foundling.evaluation.bm25 import BM25
from foundling.evaluation.statistics import wilson
from foundling.inference.embedding import embed
from foundling.inference.runner import inference_of
from foundling.models.language_model import LanguageModel
from foundling.models.pooling import PoolingConfig, read_pooling, write_pooling
from foundling.post_training.config import ContrastConfig
from foundling.post_training.data import existing_file, read_rows
from foundling.post_training.tuning import load_base, prepare, tune, tuned_card, write_tuned
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.objectives.contrastive import MAX_SCALE, Contrastive, Embedder, Pair

FORMS = (("query", "passage"), ("anchor", "positive"), ("question", "answer"), ("prompt", "completion"))
NEGATIVES = ("negatives", "negative")
CROP = (0.2, 0.6)  # shortest and longest, of a text's characters
MOST_HELD_OUT = 2000
TOP = 10


@dataclass(frozen=True)
class Texts:
    """A row: a query and its passage, or one text (passage None); and passages that are wrong for the query."""

    query: str
    passage: str | None
    negatives: tuple[str, ...]
    source: str

    def cropped(self, *seed: object) -> Texts:
        """A row of one text with two random crops of it."""
        rng, length = numpy_rng("crops", *seed), len(self.query)
        sizes = [max(1, int(length * share)) for share in rng.uniform(*CROP, size=2)]
        starts = [int(rng.integers(0, length - size + 1)) for size in sizes]
        query, passage = (self.query[start : start + size] for start, size in zip(starts, sizes, strict=True))
        return Texts(query, passage, self.negatives, self.source)


class TextPairs:
    """Rows as pairs of token ids in the tokenizer's own frame, cut to the context.

    Args:
        crops: a row of one text gives two crops of it, others in every epoch; else the text twice.
    """

    def __init__(self, rows: Sequence[Texts], tokenizer: Tokenizer, context: int, *, crops: bool, seed: int) -> None:
        self.rows, self.tokenizer, self.context, self.crops, self.seed = rows, tokenizer, context, crops, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        row = self.rows[index % len(self.rows)]
        if row.passage is None and self.crops:
            row = row.cropped(self.seed, index)
        passage = row.query if row.passage is None else row.passage
        ids = self.tokenizer.encode_framed([row.query, passage, *row.negatives], self.context)
        return Pair(ids[0], ids[1], row.source, tuple(ids[2:]))


def build_embedder(config: ContrastConfig, inputs: Inputs, draft: Draft) -> None:
    """Train on pairs and write a model directory that sentence-transformers reads, with how well it finds passages.

    Raises:
        FoundlingError: rows without a pair, too few of them, an encoder-decoder, or what the loop refuses.
    """
    base = inputs["base"]
    module, tokenizer = load_base(base, encoders=True)
    if module.encoder is not None:
        raise FoundlingError(f"a {module.config.family} model is an encoder-decoder", "`contrast` trains one stack")
    if config.context > module.config.max_positions:
        what = f"context is {config.context}, and the base reads {module.config.max_positions} tokens at most"
        raise FoundlingError(what, fix=f"Set context to {module.config.max_positions} or less")
    counts: Counter[str] = Counter()
    train, held_out = _split(_texts(config, tokenizer, counts), config, counts)
    pooling = _pooling(config, base)
    before = retrieval(module, tokenizer, held_out, pooling)
    prepare(module, config)
    embedder = Embedder(module, config.temperature, pooling).to(device())
    size = min(config.batch_size, len(train))
    steps = config.steps or max(1, round(len(train) * config.epochs / size))
    resolved = config.model_copy(update={"steps": steps, "batch_size": size})
    pairs = TextPairs(train, tokenizer, config.context, crops=config.single == "crops", seed=config.seed)
    objective = Contrastive(
        pairs,
        config.context,
        size,
        config.seed,
        pad_id=tokenizer.pad_id,
        negatives=min(config.negatives, max(len(row.negatives) for row in train)),
    )
    tune(embedder, objective, resolved, base, draft, "contrast", module.config)
    after = retrieval(module, tokenizer, held_out, pooling)
    quality = {**after, **{f"{name}_before": before[name] for name in ("recall_at_1", "mrr")}, **bm25(held_out)}
    draft.metrics |= {"pairs": len(train), "held_out": len(held_out), "counted": dict(+counts), **quality}
    draft.metrics["temperature"] = float((-embedder.log_scale.detach()).clamp(min=-MAX_SCALE).exp())
    card = tuned_card(
        "Embedding model",
        f"Texts as vectors of {module.config.dim} numbers, taught by {len(train):,} pairs. It does not write.",
        resolved,
        inputs,
        {f"Held-out queries among {len({row.passage for row in held_out}):,} passages": quality},
        ("Near means: like the pairs it was taught. Other kinds of nearness it does not know.",),
        task="sentence-similarity",
    )
    if not tokenizer.config.get("pad_token"):  # other tools cannot pad without it
        tokenizer.config["pad_token"] = tokenizer.fast.id_to_token(tokenizer.pad_id)
    write_tuned(module, tokenizer, resolved, base, draft, card)
    write_pooling(draft.path, pooling, module.config.dim)


def retrieval(
    module: LanguageModel, tokenizer: Tokenizer, rows: Sequence[Texts], pooling: PoolingConfig
) -> dict[str, float]:
    """How well the rows' queries find their passages among those of all rows, and their own negatives: see `ranked`."""
    queries, passages = _asked(rows)
    with inference_of(module):
        vectors = [
            embed(module, tokenizer.encode_framed(texts, pooling.max_tokens), pooling) for texts in (queries, passages)
        ]
    nearest = np.argsort(-(vectors[0] @ vectors[1].T), axis=1, kind="stable")[:, :TOP]
    return ranked(nearest, rows)


def bm25(rows: Sequence[Texts]) -> dict[str, float]:
    """The same of BM25, which knows words only and learns nothing: `recall_at_1_bm25` and `mrr_bm25`."""
    queries, passages = _asked(rows)
    search = BM25(passages)
    nearest = np.array([search.nearest(query, TOP) for query in queries])
    return {f"{name}_bm25": value for name, value in ranked(nearest, rows).items() if name in ("recall_at_1", "mrr")}


def ranked(nearest: npt.NDArray[np.int64], rows: Sequence[Texts]) -> dict[str, float]:
    """Recall at 1 with its 95% interval, recall at 10 and mean reciprocal rank (0 beyond 10).

    Args:
        nearest: (queries, 10 at most) numbers of the passages that were found, nearest first.
    """
    queries, passages = _asked(rows)
    number = {passage: index for index, passage in enumerate(passages)}
    right: dict[str, set[int]] = {query: set() for query in queries}
    for row in rows:
        right[row.query].add(number[str(row.passage)])
    ranks = [
        next((rank for rank, found in enumerate(line, start=1) if int(found) in right[query]), 0)
        for query, line in zip(queries, nearest, strict=True)
    ]
    first, interval = sum(rank == 1 for rank in ranks), wilson(sum(rank == 1 for rank in ranks), len(ranks))
    return {
        "recall_at_1": first / len(ranks),
        "recall_at_1_low": interval.low,
        "recall_at_1_high": interval.high,
        "recall_at_10": sum(rank > 0 for rank in ranks) / len(ranks),
        "mrr": sum(1 / rank for rank in ranks if rank) / len(ranks),
    }


def _asked(rows: Sequence[Texts]) -> tuple[list[str], list[str]]:
    """The queries, and the passages among which they search; equal texts once."""
    passages = [str(row.passage) for row in rows] + [text for row in rows for text in row.negatives]
    return list(dict.fromkeys(row.query for row in rows)), list(dict.fromkeys(passages))


def _pooling(config: ContrastConfig, base: Artifact) -> PoolingConfig:
    mode = read_pooling(base.path).mode if config.pooling == "base" else config.pooling
    return PoolingConfig(mode=mode, normalize=True, max_tokens=config.context)


def _texts(config: ContrastConfig, tokenizer: Tokenizer, counts: Counter[str]) -> list[Texts]:
    found: list[Texts] = []
    for entry in config.data:
        found += read_rows(existing_file(Path(entry).expanduser()), as_texts, config.invalid, counts)
    whole = [row for row in found if row.passage is not None or config.single == "dropout"]  # crops may be of any text
    long = [row for row in whole if _longest(row, tokenizer) > config.context]
    if long and config.too_long == "refuse":
        what = f"{long[0].source} has {_longest(long[0], tokenizer)} tokens, more than the context of {config.context}"
        raise FoundlingError(what, fix="Set a larger context, or too_long to 'skip' or 'truncate'")
    counts[f"longer than the context: {config.too_long}"] += len(long)
    if config.too_long == "skip":
        out = {id(row) for row in long}
        found = [row for row in found if id(row) not in out]
    return found


def _longest(row: Texts, tokenizer: Tokenizer) -> int:
    return max(map(len, tokenizer.encode_framed([row.query, row.passage or "", *row.negatives])))


def as_texts(row: Any, where: str) -> Texts:
    """A row as texts: {query, passage} by any of the usual names, with or without negatives, or {text}.

    Raises:
        FoundlingError: naming `where` and what is wrong.
    """
    known = " or ".join(f"{{{query}, {passage}}}" for query, passage in FORMS)
    if not isinstance(row, dict):
        raise FoundlingError(f"{where} is not an object", f"a row is {known}, or {{text}}")
    form = next((form for form in FORMS if row.get(form[0]) is not None and row.get(form[1]) is not None), None)
    if form is None and row.get("text") is None:
        raise FoundlingError(f"{where} has the fields {', '.join(row)}", f"a row has {known}, or {{text}}")
    query, passage = (row[form[0]], row[form[1]]) if form else (row["text"], None)
    given: Any = next((row[name] for name in NEGATIVES if row.get(name)), [])
    negatives = [given] if isinstance(given, str) else given
    if not isinstance(negatives, list):
        raise FoundlingError(f"{where}: `negatives` is {given!r}", "negatives are a text or a list of texts")
    for text in (query, *([passage] if form else []), *negatives):
        if not isinstance(text, str) or not text.strip():
            raise FoundlingError(f"{where} has an empty text, or one that is no text: {text!r}")
    if passage == query:
        raise FoundlingError(f"{where}: query and passage are the same text", "a row of one text has the field `text`")
    if passage in negatives or query in negatives:
        raise FoundlingError(f"{where}: a negative is the query or its passage", "negatives are wrong for the query")
    return Texts(query, passage, tuple(negatives), where)


def _split(rows: Sequence[Texts], config: ContrastConfig, counts: Counter[str]) -> tuple[list[Texts], list[Texts]]:
    """Training and held-out rows by a hash of the query, so that equal ones never stand on both sides.

    A row that is a held-out one turned round would be the same pair: it is left out of training, and counted.
    """
    share = min(config.held_out, MOST_HELD_OUT / max(len(rows), 1))
    held = [seed_for("contrast", row.query) < share * 2**63 for row in rows]
    held_out = [row for row, out in zip(rows, held, strict=True) if out]
    turned = {(row.passage, row.query) for row in held_out}
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    counts["a held-out pair turned round"] += sum((row.query, row.passage) in turned for row in train)
    train = [row for row in train if (row.query, row.passage) not in turned]
    held_out = [row.cropped("held out", row.query) if row.passage is None else row for row in held_out]
    if len(train) < 2 or len(held_out) < 2:
        raise FoundlingError(f"{len(rows)} rows are too few to train on some and hold some out", fix="Give more rows")
    return train, held_out
