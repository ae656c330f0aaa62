"""What `adapt` is asked to do. No torch here."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option

Road = Literal["zero-shot", "few-shot", "retrieval", "best-of-n", "classifier", "prompt-tuning", "lora", "full"]
ROADS: tuple[Road, ...] = (
    "zero-shot", "few-shot", "retrieval", "best-of-n", "classifier", "prompt-tuning", "lora", "full"
)  # fmt: skip


class AdaptConfig(Config):
    """`adapt`: every road from a model to a task, on the same held-out examples; then the cheapest good enough."""

    data: str = option(help="the task: rows {input, output} (.jsonl, .jsonl.gz, .parquet)")
    instruction: str = option("", "what to do with an input, in words; stands before every input")
    documents: str = option("", "a text file or .jsonl {text} to look things up in, for the road `retrieval`")
    metric: Literal["exact", "contains"] = option("exact", "when an answer is right: it is, or contains, the output")
    bar: float = option(0.8, "share of right answers that is good enough", gt=0, le=1)
    roads: tuple[Road, ...] = option(ROADS, "which to try, cheapest first", min_length=1)
    budget_s: float = option(600.0, "seconds after which no further road is begun", gt=0)
    held_out: float = option(0.3, "share of the examples that answers are scored on", gt=0, lt=1)
    shots: int = option(4, "few-shot: worked examples before each input", ge=1)
    search: Literal["bm25", "embeddings"] = option(
        "bm25", "few-shot, retrieval: how near texts are found: shared rare words, or vectors of `embedder`"
    )
    embedder: str = option("all-minilm-l6-v2", "embeddings: the model that makes them: a path, key or hub id")
    virtual_tokens: int = option(16, "prompt-tuning: learned vectors before each input", ge=1)
    passages: int = option(2, "retrieval: passages before each input", ge=1)
    samples: int = option(5, "best-of-n: answers that vote", ge=2)
    max_tokens: int = option(32, "longest answer in tokens", ge=1)
    epochs: float = option(3.0, "prompt-tuning, lora, full: passes over the examples", gt=0)
    classes: int = option(20, "classifier: most different outputs for which it is tried", ge=2)
    price_per_hour: float = option(0.10, "of this machine, in the currency of your choice", ge=0)
    seed: int = option(0, "of the split, of sampling and of training", ge=0)
