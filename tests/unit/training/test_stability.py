"""Averages, spikes and diagnostics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TinyDecoder, tiny_config, write_tokens

from foundling.core.errors import FoundlingError
from foundling.training.averaging import RunningAverage, average_files
from foundling.training.batch import Batch
from foundling.training.objective import LossSum
from foundling.training.objectives.causal import Causal
from foundling.training.spikes import is_spike
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer


@pytest.fixture
def split(tmp_path: Path) -> TokenSplit:
    return TokenSplit(write_tokens(tmp_path / "tokens"), "train")


class Jump(Causal):
    """One batch of poison: its loss is a hundred times the usual, and its gradient too."""

    poison = -1

    def batch(self, step: int, model: object = None) -> Batch:
        batch = super().batch(step)
        batch.extra["scale"] = torch.full((batch.rows,), 100.0 if step == self.poison else 1.0)
        return batch

    def loss(self, model: object, batch: Batch) -> LossSum:
        result = super().loss(model, batch)
        return LossSum(result.total * batch.extra["scale"][0], result.count)


def make(tmp_path: Path, split: TokenSplit, name: str, poison: int = -1, **changes: object) -> Trainer:
    config = tiny_config(**changes)
    objective = Jump(split, config.context, config.batch_size, config.seed)
    objective.poison = poison
    return Trainer(TinyDecoder(), objective, config, tmp_path / name, log=tmp_path / f"{name}.log.jsonl")


def test_a_spike_rewinds_and_skips_the_batch(tmp_path: Path, split: TokenSplit) -> None:
    """After the rewind the run must be the one that never saw the batch, and the log must say what was skipped."""
    options = {"steps": 32, "checkpoint_every": 4, "rewind_on_spike": 8.0}
    trainer = make(tmp_path, split, "jump", poison=26, **options)
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "jump.log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines if line["kind"] == "rewind"] == [26]

    class Without(Causal):
        def batch(self, step: int, model: object = None) -> Batch:
            return super().batch(step + (step >= 26))

    plain = make(tmp_path, split, "plain", **options)
    plain.objective = plain.loss_at.objective = Without(split, 16, 8, 0)
    plain.fit()
    for a, b in zip(trainer.module.parameters(), plain.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_a_spike_is() -> None:
    """Noise must not count, nor may one spike hide the next."""
    recent = [2.0, 2.1, 1.9, 2.05, 1.95] * 6
    assert not is_spike(2.3, recent, 6) and is_spike(3.0, recent, 6) and is_spike(float("nan"), recent, 6)
    assert is_spike(3.0, [*recent, 50.0], 6) and not is_spike(3.0, recent[:5], 6)


def test_the_average_is_the_result_and_survives_a_crash(tmp_path: Path, split: TokenSplit) -> None:
    """The averaged weights must be what is left in the module, and a resumed run must have the same ones."""
    options = {"steps": 20, "average": 0.9, "checkpoint_every": 5}
    plain, whole = make(tmp_path, split, "p", steps=20), make(tmp_path, split, "w", **options)
    plain.fit(), whole.fit()
    assert not torch.equal(plain.module.up.weight, whole.module.up.weight)
    assert whole.average is not None and torch.equal(plain.module.up.weight, whole.average.averages["up.weight"])
    broken = make(tmp_path, split, "b", **options)
    broken.objective.batch = _failing_at(12, broken.objective.batch)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    again = make(tmp_path, split, "b", **options)
    again.fit()
    assert torch.equal(again.module.up.weight, whole.module.up.weight)


def _failing_at(step: int, batch):  # type: ignore[no-untyped-def]
    def wrapped(number: int, model: object = None) -> Batch:
        if number == step:
            raise KeyboardInterrupt
        return batch(number, model)

    return wrapped


def test_early_weights_are_forgotten() -> None:
    """A constant decay near one would keep the random start for thousands of steps."""
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 100.0)
    average = RunningAverage(module, 0.999)
    torch.nn.init.constant_(module.weight, 0.0)
    for _ in range(100):
        average.update()
    assert float(average.averages["weight"].detach()) < 1e-4


def test_averaging_files(tmp_path: Path) -> None:
    """The mean, tensor by tensor, in the files' dtype; another model's file is refused."""
    for i in (1, 3):
        save_file({"w": torch.full((2,), float(i), dtype=torch.bfloat16)}, tmp_path / f"{i}.safetensors")
    average_files([tmp_path / "1.safetensors", tmp_path / "3.safetensors"], tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors")["w"].equal(torch.full((2,), 2.0, dtype=torch.bfloat16))
    save_file({"v": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(FoundlingError, match="same tensors"):
        average_files([tmp_path / "1.safetensors", tmp_path / "other.safetensors"], tmp_path / "out.safetensors")


def test_diagnoses_are_logged_by_part(tmp_path: Path, split: TokenSplit) -> None:
    """Update ratios are what people tune rates by: each part of the network must be there, with a sane number."""
    make(tmp_path, split, "d", diagnose_every=6).fit()
    lines = [json.loads(line) for line in (tmp_path / "d.log.jsonl").read_text().splitlines()]
    diagnoses = [line for line in lines if line["kind"] == "diagnosis"]
    assert [line["step"] for line in diagnoses] == [6, 12]
    assert set(diagnoses[0]["update_ratio"]) == {"embedding", "up", "down", "norm", "norm.bias", "output"}
    assert 1e-5 < diagnoses[0]["update_ratio"]["up"] < 1
