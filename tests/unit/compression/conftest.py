"""A small model with a tokenizer of bytes, and a corpus to measure it on."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import polars
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from foundling.core.artifacts import Artifact
from foundling.models import build as building
from foundling.models.checkpoint import save_module
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset
from foundling.tokenization.chat import CHATML
from foundling.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer


@pytest.fixture(scope="module")
def module() -> LanguageModel:
    """A model whose every weight matters: fresh ones begin with output projections of zero."""
    module = building.build(preset("foundling-1m", vocab_size=259, max_positions=64), seed=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.fixture(scope="module")
def directory(module: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with one token per byte."""
    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = tokenizers.Tokenizer(models.BPE({c: i + 3 for i, c in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(list(SPECIAL_TOKENS))
    Tokenizer(fast, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}).save(path)
    save_module(module, path)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("corpus")
    text = (Path(sysconfig.get_paths()["stdlib"]) / "os.py").read_text()
    rows = [{"id": str(i), "text": text[400 * i : 400 * (i + 1)], "source": "stdlib", "meta": "{}"} for i in range(8)]
    polars.DataFrame(rows).write_parquet(path / "validation.parquet")
    polars.DataFrame(rows).write_parquet(path / "train.parquet")
    return Artifact.outside(path, "corpus")
