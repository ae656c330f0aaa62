"""The stage `tokenizer`: a byte-level BPE of one's own, with the chat special tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from foundling.core import progress
from foundling.core.artifacts import Artifact, Draft
from foundling.core.files import write_json
from foundling.core.stages import Inputs
from foundling.tokenization.chat import CHATML
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.kinds import UNKNOWN, train_fast
from foundling.tokenization.tokenizer import ENDOFTEXT, TURN_END, Tokenizer

_REPORT_BYTES = 4_000_000
_BATCH_ROWS = 256


def build(config: TokenizerConfig, inputs: Inputs, draft: Draft) -> None:
    """Train on the corpus's train split; write tokenizer.json, tokenizer_config.json and report.json."""
    corpus = inputs["corpus"]
    path = corpus.file("train.parquet")
    tokenizer = train(sample(path, config.sample_bytes), config)
    tokenizer.save(draft.path)
    report = {split: measure(tokenizer, texts) for split, texts in held_texts(corpus).items()}
    write_json(draft.path / "report.json", {"vocab_size": tokenizer.vocab_size, **report})
    draft.metrics |= {"vocab_size": tokenizer.vocab_size}
    draft.metrics |= {f"{split}_bytes_per_token": r["bytes_per_token"] for split, r in report.items()}


def train(texts: Iterator[str], config: TokenizerConfig) -> Tokenizer:
    """A tokenizer of the config's kind, with our special tokens and the ChatML template."""
    with progress.task("train the tokenizer"):
        fast = train_fast(texts, config)
    found = fast.get_vocab_size()
    if found < config.vocab_size and config.kind not in ("bytes", "characters"):
        progress.say(f"The text gives only {found} tokens, not {config.vocab_size}: no other pair occurs often enough.")
    settings: dict[str, Any] = {
        "eos_token": TURN_END,
        "pad_token": ENDOFTEXT,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
    }
    if fast.token_to_id(UNKNOWN) is not None:
        settings["unk_token"] = UNKNOWN
    return Tokenizer(fast, {**settings, "chat_template": CHATML})


def measure(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Any]:
    """How well a tokenizer compresses texts: bytes per token, characters per token, share of the vocabulary used."""
    encoded = tokenizer.encode_batch(texts)
    tokens = sum(map(len, encoded))
    n_bytes = sum(len(text.encode()) for text in texts)
    used = len(set().union(*map(set, encoded))) if encoded else 0
    return {
        "documents": len(texts),
        "bytes": n_bytes,
        "tokens": tokens,
        "bytes_per_token": round(n_bytes / max(tokens, 1), 4),
        "characters_per_token": round(sum(map(len, texts)) / max(tokens, 1), 4),
        "vocabulary_used": round(used / tokenizer.vocab_size, 4),
    }


def sample(path: Path, limit: int) -> Iterator[str]:
    """Every document, or, of a larger corpus, documents evenly spread over it."""
    total = pl.scan_parquet(path).select(pl.col("text").str.len_bytes().sum()).collect().item()
    every = max(1, -(-int(total) // limit))
    for rows in pl.scan_parquet(path).select("text").gather_every(every).collect_batches(chunk_size=_BATCH_ROWS):
        yield from rows["text"]


def held_texts(corpus: Artifact) -> dict[str, list[str]]:
    """Some megabytes of each split, to measure a tokenizer on."""
    found = {}
    for split in ("train", "validation"):
        texts = pl.read_parquet(corpus.file(f"{split}.parquet"), columns=["text"])["text"]
        running = texts.str.len_bytes().cum_sum()
        chosen = texts.filter(running <= _REPORT_BYTES).to_list()
        if chosen:
            found[split] = chosen
    return found
