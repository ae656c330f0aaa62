"""On a GPU: the same losses as on the CPU, 8-bit products, and a checkpoint that goes on elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundling.core.hardware import device
from foundling.models.build import build
from foundling.models.presets import preset
from foundling.training.batch import Batch
from foundling.training.config import TrainingConfig
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
VOCAB, ROWS, TIME = 64, 16, 32


class Counting:
    """Rows that count upwards from a random number."""

    def batch(self, step: int, model: torch.nn.Module | None = None) -> Batch:
        starts = np.random.default_rng(step).integers(0, VOCAB, (ROWS, 1))
        tokens = torch.from_numpy((starts + np.arange(TIME + 1)) % VOCAB)
        return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(ROWS, TIME), sources=[""] * ROWS)

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        return next_token_loss(model, batch)


def losses(folder: Path, where: torch.device, steps: int = 20, **options: Any) -> list[float]:
    """The loss of each step."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: list[float] = []
    settings = {"steps": 20, "batch_size": ROWS, "context": TIME, "precision": "fp32", "checkpoint_every": 5, **options}
    module = build(preset("foundling-1m", vocab_size=VOCAB), 0).to(where)
    trainer = Trainer(module, Counting(), TrainingConfig.model_validate(settings), folder, log=folder / "log.jsonl")

    def after(step: int, module: torch.nn.Module) -> None:
        seen.append(trainer.state.recent[-1])
        if step == steps < 20:
            raise KeyboardInterrupt

    trainer.after_step = after
    try:
        trainer.fit()
    except KeyboardInterrupt:
        assert steps < 20
    return seen


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_same_losses_as_on_the_cpu(tmp_path: Path, optimizer: str) -> None:
    """Guards against a piece of the step that does something else there."""
    cpu = losses(tmp_path / "cpu", torch.device("cpu"), optimizer=optimizer)
    gpu = losses(tmp_path / "gpu", device(), optimizer=optimizer)
    assert gpu == pytest.approx(cpu, abs=2e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_lower_precision_learns(tmp_path: Path, precision: str) -> None:
    """Fused products in 8 bits must not be noise."""
    if precision == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no products of 8-bit floats")
    found = losses(tmp_path, device(), precision=precision)
    assert found[-1] < found[0] - 1


def test_a_run_goes_on_from_the_gpu_on_the_cpu(tmp_path: Path) -> None:
    """A checkpoint must say nothing of where it was made."""
    whole = losses(tmp_path / "whole", device(), optimizer="adamw")
    losses(tmp_path / "part", device(), steps=12, optimizer="adamw")
    rest = losses(tmp_path / "part", torch.device("cpu"), optimizer="adamw")
    assert rest == pytest.approx(whole[-len(rest) :], abs=2e-3)
