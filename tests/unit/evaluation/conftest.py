"""A small random model, its tokenizer and a small corpus of Python, shared by the evaluation tests."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import polars
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from foundling.core.artifacts import Artifact
from foundling.models.build import build
from foundling.models.checkpoint import save_module
from foundling.models.presets import preset
from foundling.tokenization.chat import CHATML
from foundling.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer


def python_files(n: int) -> list[tuple[str, str]]:
    """(name, text) of n files of the standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(path.name for path in folder.glob("*.py"))[:n]
    return [(name, (folder / name).read_text(encoding="utf-8")) for name in names]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Byte-level BPE of 600 tokens with the chat tokens."""
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator([text for _, text in python_files(12)], trainer)
    config = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
    return Tokenizer(fast, config)


@pytest.fixture(scope="session")
def model_directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a random Qwen3 that sees 128 tokens."""
    path = tmp_path_factory.mktemp("model")
    save_module(build(preset("foundling-1m", vocab_size=tokenizer.vocab_size, max_positions=128), seed=1), path)
    tokenizer.save(path)
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A corpus artifact with a dozen files on each side."""
    path = tmp_path_factory.mktemp("corpus")
    rows = [{"id": name, "text": text[:6000], "source": "stdlib", "meta": "{}"} for name, text in python_files(24)]
    polars.DataFrame(rows[:12]).write_parquet(path / "train.parquet")
    polars.DataFrame(rows[12:]).write_parquet(path / "validation.parquet")
    (path / "report.json").write_text(json.dumps({}))
    return Artifact.outside(path, "corpus")
