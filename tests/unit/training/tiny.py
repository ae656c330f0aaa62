"""A tiny decoder and a tiny tokens artifact for the training tests: no file, no tokenizer, no other layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from foundling.training.config import TrainingConfig

VOCAB = 61


class TinyDecoder(nn.Module):
    """Embedding, one causal averaging layer, a head: enough to have matrices, vectors and a tied or untied output."""

    def __init__(self, dim: int = 16, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCAB, dim)
        self.up = nn.Linear(dim, 3 * dim, bias=False)
        self.down = nn.Linear(3 * dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.0)
        self.transform = self.output_bias = None
        self.output = None if tied else nn.Linear(dim, VOCAB, bias=False)

    def hidden(self, tokens: Tensor, ctx: object = None) -> Tensor:
        x = self.embedding(tokens)
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype).unsqueeze(-1)
        return self.norm(x + self.dropout(self.down(torch.relu(self.up(mean)))))

    def head(self, hidden: Tensor) -> Tensor:
        weight = self.embedding.weight if self.output is None else self.output.weight
        return nn.functional.linear(hidden, weight)


def write_tokens(directory: Path, documents: int = 40, seed: int = 0) -> Path:
    """A tokens artifact of documents that count upwards, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    meta = {"dtype": "uint16", "vocab_size": VOCAB, "eot_id": 0, "splits": {}}
    directory.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        texts = []
        for _ in range(documents):
            start, length = rng.integers(1, VOCAB), rng.integers(5, 60)
            texts.append(np.concatenate([[0], 1 + (start + np.arange(length)) % (VOCAB - 1)]).astype("<u2"))
        np.concatenate(texts).tofile(directory / f"{split}.bin")
        np.save(directory / f"{split}.index.npy", np.cumsum([0] + [len(t) for t in texts]).astype(np.int64))
        np.save(directory / f"{split}.bytes.npy", np.array([len(t) - 1 for t in texts], dtype=np.int64))
        meta["splits"][split] = {"documents": documents, "tokens": sum(map(len, texts)), "bytes": 0}  # type: ignore[index]
    (directory / "tokens.json").write_text(json.dumps(meta))
    return directory


def tiny_config(**changes: object) -> TrainingConfig:
    """A config of a few seconds."""
    fields: dict[str, object] = {
        "steps": 12,
        "batch_size": 8,
        "context": 16,
        "precision": "fp32",
        "matrix_learning_rate": 0.05,
        "learning_rate": 0.01,
        "log_every": 1,
    }
    return TrainingConfig(**(fields | changes))
