"""The loop: resuming, accumulation, stopping, refusing."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import TinyDecoder, tiny_config, write_tokens

from foundling.core.errors import FoundlingError, Interrupted
from foundling.core.files import read_jsonl
from foundling.training import checkpoint, sharded_files
from foundling.training.batch import Batch
from foundling.training.objective import LossSum
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer


class StopAt(Causal):
    """The causal objective, but something happens when the batch of one step is asked for."""

    at = -1
    action = staticmethod(lambda: None)

    def batch(self, step: int, model: object = None) -> Batch:
        if step == self.at:
            self.action()
        return super().batch(step)


@pytest.fixture
def split(tmp_path: Path) -> TokenSplit:
    return TokenSplit(write_tokens(tmp_path / "tokens"), "train")


def make(tmp_path: Path, split: TokenSplit, scratch: str = "scratch", **changes: object) -> Trainer:
    config = tiny_config(**changes)
    objective = StopAt(split, config.context, config.batch_size, config.seed)
    module = TinyDecoder()
    module.dropout.p = 0.1
    return Trainer(module, objective, config, tmp_path / scratch, log=tmp_path / f"{scratch}.log.jsonl", data="d1")


def losses(tmp_path: Path, scratch: str = "scratch") -> list[float]:
    lines = [json.loads(line) for line in (tmp_path / f"{scratch}.log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def test_it_learns(tmp_path: Path, split: TokenSplit) -> None:
    """Guards against a loop that runs and moves nothing."""
    make(tmp_path, split, steps=60).fit()
    curve = losses(tmp_path)
    assert len(curve) == 60 and curve[-1] < 0.6 * curve[0]


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_is_bit_exact(tmp_path: Path, split: TokenSplit, optimizer: str, precision: str) -> None:
    """A run that crashes between steps and goes on must equal an undisturbed one, to the bit: weights and log."""
    options = {"optimizer": optimizer, "precision": precision, "checkpoint_every": 4}
    whole = make(tmp_path, split, "whole", **options)
    summary = whole.fit()

    def crash() -> None:
        raise KeyboardInterrupt

    first = make(tmp_path, split, "killed", **options)
    first.objective.at, first.objective.action = 6, crash  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = make(tmp_path, split, "killed", **options)
    resumed = second.fit()
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name
    assert losses(tmp_path, "whole") == losses(tmp_path, "killed")
    assert (resumed.loss, resumed.tokens) == (summary.loss, summary.tokens)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_stops(tmp_path: Path, split: TokenSplit, number: int) -> None:
    """SIGTERM in the middle of a step: that step is finished and saved, and the exit code says which signal it was."""
    trainer = make(tmp_path, split)
    trainer.objective.at, trainer.objective.action = 5, lambda: os.kill(os.getpid(), number)  # type: ignore[attr-defined]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        trainer.fit()
    assert stopped.value.exit_code == 128 + number
    found = checkpoint.latest(tmp_path / "scratch")
    assert found is not None and found.name == "checkpoint-00000006"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_during_the_last_evaluation_stops_the_run_too(tmp_path: Path, split: TokenSplit) -> None:
    """It was noted, and then forgotten: the life went on with its next stage."""
    trainer = make(tmp_path, split)
    trainer.evaluate = lambda module: os.kill(os.getpid(), signal.SIGINT) or {}
    with pytest.raises(Interrupted):
        trainer.fit()
    again = make(tmp_path, split)
    assert again.fit().steps == again.config.steps, "and the next run goes on from the end"


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_accumulation_gives_the_same_curve(tmp_path: Path, split: TokenSplit, rows: int) -> None:
    """Averaging per micro-batch instead of over the whole batch is the classic bug: uneven masks would show it."""

    class Uneven(Causal):
        def batch(self, step: int, model: object = None) -> Batch:
            batch = super().batch(step)
            batch.loss_mask[::2, 3:] = 0
            return batch

    curves = []
    for name, micro in (("whole", 0), ("parts", rows)):
        trainer = make(tmp_path, split, name, micro_batch=micro)
        trainer.module.dropout.p = 0.0  # type: ignore[union-attr]
        trainer.objective = trainer.loss_at.objective = Uneven(split, 16, 8, 0)
        trainer.fit()
        curves.append(losses(tmp_path, name))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_other_data_or_config_is_refused_on_resume(tmp_path: Path, split: TokenSplit) -> None:
    """A checkpoint must not be continued on other data, with another seed or another rate."""
    make(tmp_path, split, steps=2).fit()
    other = make(tmp_path, split, steps=2)
    other.fingerprint["data"] = "d2"
    with pytest.raises(FoundlingError, match="data"):
        other.fit()
    with pytest.raises(FoundlingError, match="config"):
        make(tmp_path, split, steps=2, seed=1).fit()
    make(tmp_path, split, steps=2, log_every=3).fit()


def test_not_a_number_names_the_step_and_the_documents(tmp_path: Path, split: TokenSplit) -> None:
    """A NaN must stop the run before it reaches the weights, and say where it came from."""

    class Poisoned(Causal):
        def loss(self, model: object, batch: Batch) -> LossSum:
            result = super().loss(model, batch)
            return LossSum(result.total * (float("nan") if batch.sources[0] == self.poison else 1.0), result.count)

    trainer = make(tmp_path, split, micro_batch=2)
    objective = Poisoned(split, 16, 8, 0)
    objective.poison = objective.batch(3).sources[4]
    trainer.objective = trainer.loss_at.objective = objective
    with pytest.raises(FoundlingError, match="step 3") as stopped:
        trainer.fit()
    assert objective.poison in str(stopped.value) and objective.batch(3).sources[0] not in str(stopped.value)
    assert all(bool(p.isfinite().all()) for p in trainer.module.parameters())


def test_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, split: TokenSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint that does not fit must not damage the one that is there."""
    trainer = make(tmp_path, split, checkpoint_every=4)
    real = sharded_files.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "00000008" in str(path):
            Path(path).write_bytes(b"partial")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(sharded_files, "save_file", full)
    with pytest.raises(FoundlingError, match="checkpoint-00000004 is intact"):
        trainer.fit()
    assert [p.name for p in sorted((tmp_path / "scratch").iterdir())] == ["checkpoint-00000004"]
    assert load_file(tmp_path / "scratch/checkpoint-00000004/weights/model.safetensors")


@pytest.mark.parametrize("folder", ["weights", "optimizer"])
def test_a_damaged_or_older_checkpoint_is_named(tmp_path: Path, split: TokenSplit, folder: str) -> None:
    """A file cut short, or a layout of before, must be one sentence and no traceback."""
    trainer = make(tmp_path, split, checkpoint_every=4)
    trainer.fit()
    found = checkpoint.latest(tmp_path / "scratch")
    assert found is not None
    file = found / folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FoundlingError, match=f"{folder} cannot be read"):
        make(tmp_path, split, checkpoint_every=4).fit()
    (found / "weights").rename(found / "weights.of.before")
    with pytest.raises(FoundlingError, match="older layout"):
        make(tmp_path, split, checkpoint_every=4).fit()


def test_memory_error_on_the_dry_run_gives_advice(tmp_path: Path, split: TokenSplit) -> None:
    """A batch that does not fit must fail at once, with the setting to change."""

    class Huge(Causal):
        def loss(self, model: object, batch: Batch) -> LossSum:
            raise torch.OutOfMemoryError("tried to allocate")

    trainer = make(tmp_path, split)
    trainer.objective = trainer.loss_at.objective = Huge(split, 16, 8, 0)
    with pytest.raises(FoundlingError, match="micro_batch to 4"):
        trainer.fit()


def test_saved_before_evaluating_and_evaluated_again_after_a_crash(tmp_path: Path, split: TokenSplit) -> None:
    """An evaluation that crashes must lose no training, and its number must still be in the log afterwards."""
    calls: list[int] = []

    def evaluate(module: torch.nn.Module) -> dict[str, float]:
        calls.append(len(calls))
        if len(calls) == 2:
            raise RuntimeError("evaluation broke")
        return {"bits_per_byte": 1.0 + len(calls)}

    for attempt in range(2):
        trainer = make(tmp_path, split, steps=8, evaluate_every=4)
        trainer.evaluate = evaluate
        if attempt == 0:
            with pytest.raises(RuntimeError):
                trainer.fit()
        else:
            assert trainer.fit().evaluation == {"bits_per_byte": 4.0}
    assert len(losses(tmp_path)) == 8


def test_a_log_with_unusual_line_breaks_is_read_whole(tmp_path: Path, split: TokenSplit) -> None:
    """Samples of a young model hold any character: U+2028 in one must not cut the log's line, here or in the report."""
    make(tmp_path, split, steps=4).fit()
    log, text = tmp_path / "scratch.log.jsonl", "a\u2028b\x85c\x0bd"
    with log.open("a") as file:
        file.write(json.dumps({"kind": "samples", "step": 4, "texts": [text]}, ensure_ascii=False) + '\n{"kind": "st')
    make(tmp_path, split, steps=4).fit()
    assert read_jsonl(log)[-1]["texts"] == [text] and len(read_jsonl(log)) == 5
