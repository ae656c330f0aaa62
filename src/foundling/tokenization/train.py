"""The stage `tokenizer`: a byte-level BPE of one's own, with the chat special tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

from foundling.core import progress
from foundling.core.artifacts import Artifact, Draft
from foundling.core.files import write_json
from foundling.core.stages import Inputs
from foundling.tokenization.chat import CHATML
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.tokenizer import ENDOFTEXT, SPECIAL_TOKENS, TURN_END, Tokenizer, byte_alphabet

# Llama 3's pattern (also cl100k's, with at most three digits together), as in its tokenizer.json.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_REPORT_BYTES = 4_000_000
_BATCH_ROWS = 256


def build(config: TokenizerConfig, inputs: Inputs, draft: Draft) -> None:
    """Train on the corpus's train split; write tokenizer.json, tokenizer_config.json and report.json."""
    corpus = inputs["corpus"]
    path = corpus.file("train.parquet")
    tokenizer = train(_sample(path, config.sample_bytes), config)
    tokenizer.save(draft.path)
    report = {split: measure(tokenizer, texts) for split, texts in _held_texts(corpus).items()}
    write_json(draft.path / "report.json", {"vocab_size": tokenizer.vocab_size, **report})
    draft.metrics |= {"vocab_size": tokenizer.vocab_size}
    draft.metrics |= {f"{split}_bytes_per_token": r["bytes_per_token"] for split, r in report.items()}


def train(texts: Iterator[str], config: TokenizerConfig) -> Tokenizer:
    """A byte-level BPE tokenizer (Sennrich et al. 2016 on bytes, as GPT-2's).

    Raises:
        FoundlingError: the text is too small for the vocabulary.
    """
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = _pre_tokenizer(config.pre_tokenizer)
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(byte_alphabet().values()),
        show_progress=False,
    )
    with progress.task("train the tokenizer"):
        fast.train_from_iterator(texts, trainer)
    found = fast.get_vocab_size()
    if found < config.vocab_size:
        progress.say(f"The text gives only {found} tokens, not {config.vocab_size}: no other pair occurs often enough.")
    settings = {"eos_token": TURN_END, "pad_token": ENDOFTEXT, "bos_token": None, "clean_up_tokenization_spaces": False}
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


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    if name == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _sample(path: Path, limit: int) -> Iterator[str]:
    """Every document, or, of a larger corpus, documents evenly spread over it."""
    total = pl.scan_parquet(path).select(pl.col("text").str.len_bytes().sum()).collect().item()
    every = max(1, -(-int(total) // limit))
    for rows in pl.scan_parquet(path).select("text").gather_every(every).collect_batches(chunk_size=_BATCH_ROWS):
        yield from rows["text"]


def _held_texts(corpus: Artifact) -> dict[str, list[str]]:
    found = {}
    for split in ("train", "validation"):
        texts = pl.read_parquet(corpus.file(f"{split}.parquet"), columns=["text"])["text"]
        running = texts.str.len_bytes().cum_sum()
        chosen = texts.filter(running <= _REPORT_BYTES).to_list()
        if chosen:
            found[split] = chosen
    return found
