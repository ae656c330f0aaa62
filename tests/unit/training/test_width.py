"""muP: wider models must neither explode nor freeze, and every group of weights must have the right rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import write_tokens

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, RopeConfig, uniform_blocks
from foundling.models.language_model import LanguageModel
from foundling.training.config import TrainingConfig
from foundling.training.objectives.causal import Causal
from foundling.training.optimizers.build import build_optimizers
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer
from foundling.training.width import scale_head

BASE, STEPS = 32, 4


def decoder(dim: int, vocab_size: int, tied: bool) -> LanguageModel:
    mixer = AttentionConfig(n_heads=dim // 16, n_kv_heads=dim // 16, head_dim=16, rope=RopeConfig())
    blocks = uniform_blocks(2, mixer, MLPConfig(hidden=2 * dim))
    config = ModelConfig(family="llama", vocab_size=vocab_size, dim=dim, blocks=blocks, tie_embeddings=tied)
    return build(config, 0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_coordinate_check(tmp_path: Path, optimizer: str) -> None:
    """A few steps must change the logits by as much at 4 times the width; unscaled, more and more."""
    split = TokenSplit(write_tokens(tmp_path / "tokens"), "train")
    tokens = Causal(split, 16, 8, 1).batch(0).tokens

    def change(dim: int, base_width: int) -> float:
        rates = {"learning_rate": 0.01, "matrix_learning_rate": 0.02, "warmup": 0.0, "schedule": "constant"}
        options = rates | {"steps": STEPS, "batch_size": 8, "context": 16, "precision": "fp32", "clip": 0.0}
        config = TrainingConfig(optimizer=optimizer, base_width=base_width, **options)
        module = decoder(dim, split.vocab_size, tied=False)
        scale_head(module, base_width)
        with torch.no_grad():
            before = module(tokens)
        folder = tmp_path / f"{dim}-{base_width}"
        Trainer(module, Causal(split, 16, 8, 0), config, folder, log=folder / "log.jsonl").fit()
        with torch.no_grad():
            return float((module(tokens) - before).square().mean().sqrt())

    growth = change(512, BASE) / change(128, BASE)
    unscaled = change(512, 0) / change(128, 0)
    assert 0.75 < growth < 1.25
    assert unscaled > 1.4


def test_rates_of_the_groups() -> None:
    """The head and, under AdamW, the hidden matrices get 1/width; embeddings and norms keep their rate."""
    module = decoder(64, 61, tied=False)
    config = TrainingConfig(optimizer="adamw", base_width=16, learning_rate=0.01)
    optimizers = build_optimizers(module, config)
    rates = {
        optimizers.names[p]: group["lr"]
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert rates["embedding.weight"] == rates["norm.weight"] == 0.01
    assert rates["output.weight"] == rates["blocks.0.ffn.up.weight"] == pytest.approx(0.0025)


def test_a_tied_head_is_refused() -> None:
    """Silently training a tied model at rates that do not carry over would be a wrong result."""
    with pytest.raises(FoundlingError, match="untie"):
        scale_head(decoder(64, 61, tied=True), 32)
    with pytest.raises(FoundlingError, match="untie"):  # also where a loaded model is trained on
        build_optimizers(decoder(64, 61, tied=True), TrainingConfig(base_width=32))
