"""The stage `tokenize`: a corpus through a tokenizer, into memory-mapped token files with a document index.

<split>.bin         token ids, uint16 or uint32 little-endian; each document is [end-of-text] + its ids
<split>.index.npy   (documents + 1,) int64 offsets into it
<split>.bytes.npy   (documents,) int64 UTF-8 bytes of each document
<split>.source.npy  (documents,) int32 which of the split's sources each document is from
tokens.json         dtype, vocab_size, eot_id, the size of each split, the names of its sources, and the phases of a
                    curriculum (share of the steps, tokens); the tokenizer's files lie beside it
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foundling.core import progress
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.files import write_json
from foundling.core.stages import Inputs
from foundling.tokenization.bulk import BulkEncoder
from foundling.tokenization.config import TokenizeConfig
from foundling.tokenization.tokenizer import Tokenizer

SPLITS = ("train", "validation")
_ROWS = 1024


def build(config: TokenizeConfig, inputs: Inputs, draft: Draft) -> None:
    """Encode both splits of the corpus.

    Raises:
        FoundlingError: the train split is empty.
    """
    corpus = inputs["corpus"]
    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    tokenizer.save(draft.path)
    dtype = np.dtype("<u2") if tokenizer.vocab_size <= 1 << 16 else np.dtype("<u4")
    encoder = BulkEncoder(tokenizer, fast=config.fast)
    splits, names = {}, {}
    for split in SPLITS:
        batches = _batches(corpus.file(f"{split}.parquet"), config.batch_bytes)
        splits[split] = write_split(draft.path, split, batches, encoder, tokenizer.eot_id, dtype)
        names[split] = _write_sources(corpus.file(f"{split}.parquet"), draft.path / f"{split}.source.npy")
    if not splits["train"]["documents"]:
        raise FoundlingError("the corpus has no training documents", "there is nothing to tokenize")
    about = {"dtype": dtype.name, "vocab_size": tokenizer.vocab_size, "eot_id": tokenizer.eot_id, "splits": splits}
    about["sources"], about["source_names"] = _sources(corpus.file("train.parquet")), names
    about["phases"] = _phases(corpus, np.load(draft.path / "train.index.npy"))
    write_json(draft.path / "tokens.json", about)
    draft.metrics |= splits
    draft.metrics["bytes_per_token"] = round(splits["train"]["bytes"] / splits["train"]["tokens"], 4)


def _sources(train: Path) -> list[dict[str, Any]]:
    """What the training split is made of, largest first, with the licences that its documents name."""
    size, licence = pl.col("text").str.len_bytes(), pl.col("meta").str.json_path_match("$.license")
    columns = [pl.len().alias("documents"), size.sum().alias("bytes"), licence.drop_nulls().unique().alias("licences")]
    table = pl.scan_parquet(train).group_by("source").agg(columns).collect(engine="streaming")
    rows = table.sort(["bytes", "source"], descending=[True, False]).to_dicts()
    return [row | {"licences": sorted(filter(None, row["licences"]))} for row in rows]


def _write_sources(split: Path, file: Path) -> list[str]:
    """The source of each document, as numbers; returns the sources' names."""
    column = pl.scan_parquet(split).select("source").collect(engine="streaming")["source"].fill_null("")
    names = sorted(column.unique())
    numbers = column.replace_strict(names, range(len(names)), return_dtype=pl.Int32)
    np.save(file, numbers.to_numpy())
    return names


def _phases(corpus: Artifact, index: NDArray[np.int64]) -> list[dict[str, float]]:
    """The parts of a curriculum: their share of the training steps and their tokens, which follow one another."""
    report = corpus.path / "report.json"
    phases = json.loads(report.read_text(encoding="utf-8")).get("phases", []) if report.is_file() else []
    edges = np.cumsum([0, *(phase["documents"] for phase in phases)])
    tokens = np.diff(index[edges])
    return [{"share": p["share"], "tokens": int(n)} for p, n in zip(phases, tokens, strict=True)]


def write_split(
    folder: Path,
    split: str,
    batches: Iterator[list[str]],
    encoder: BulkEncoder,
    eot_id: int,
    dtype: np.dtype[np.unsignedinteger],
) -> dict[str, int]:
    """Write the three files of a split from batches of texts; returns documents, tokens and bytes."""
    counts, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with (folder / f"{split}.bin").open("wb") as file, progress.task(f"tokenize {split}", unit="documents") as bar:
        for number, texts in enumerate(batches):
            if number == 0:
                encoder.check(texts)
            ids, lengths = encoder.encode(texts)
            starts = np.cumsum(lengths) - lengths
            np.insert(ids, starts, eot_id).astype(dtype).tofile(file)
            counts.append(lengths + 1)
            sizes.append(np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts)))
            bar.advance(len(texts))
    n_bytes = np.concatenate(sizes)
    index = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
    np.save(folder / f"{split}.index.npy", index)
    np.save(folder / f"{split}.bytes.npy", n_bytes)
    return {"documents": len(n_bytes), "tokens": int(index[-1]), "bytes": int(n_bytes.sum())}


def _batches(path: Path, limit: int) -> Iterator[list[str]]:
    """The texts of a Parquet file in lists of about `limit` bytes."""
    waiting: list[str] = []
    size = 0
    for rows in pl.scan_parquet(path).select("text").collect_batches(chunk_size=_ROWS, maintain_order=True):
        for text in rows["text"]:
            waiting.append(text)
            size += len(text)
            if size >= limit:
                yield waiting
                waiting, size = [], 0
    if waiting:
        yield waiting
