"""Several gloo processes must train exactly as one does: data parallel, sharded, sliced, and mixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import write_tokens

WORKER = Path(__file__).with_name("processes_worker.py")
BASE = {
    "steps": 20, "batch_size": 8, "context": 16, "precision": "fp32", "log_every": 1, "schedule": "constant",
    "learning_rate": 0.003, "matrix_learning_rate": 0.01,
}


def train(tmp_path: Path, name: str, processes: int, *launch: str, **options: object) -> list[float]:
    """The losses of a run; `launch` are further arguments of torchrun."""
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    tokens = write_tokens(tmp_path / "tokens")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *launch]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(WORKER), str(tokens), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, json.dumps(BASE | options)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (out / "log0.log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Curves of one process, by optimizer."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: train(folder, name, 1, optimizer=name) for name in ("muon", "adamw")}


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {"optimizer": "muon"}),
        (2, {"optimizer": "adamw", "shard": 0}),
        (2, {"optimizer": "muon", "tensor": 2}),
        (4, {"optimizer": "muon", "shard": 2}),
        (4, {"optimizer": "adamw", "tensor": 2, "shard": 2}),
        (4, {"optimizer": "adamw", "tensor": 4, "recompute": "all"}),
    ],
    ids=["data2", "shard2", "tensor2", "replica2-shard2", "shard2-tensor2", "tensor4-recompute"],
)
def test_same_losses_as_one_process(
    tmp_path: Path, alone: dict[str, list[float]], processes: int, options: dict[str, object]
) -> None:
    """A gradient that is averaged twice, or a piece that is not summed, shows within 20 steps."""
    curve = train(tmp_path, "together", processes, micro_batch=2, **options)
    assert len(curve) == 20 and curve[-1] < curve[0] - 0.3
    assert curve == pytest.approx(alone[str(options["optimizer"])], abs=1e-5)


def test_goes_on_with_another_number_of_processes(tmp_path: Path, alone: dict[str, list[float]]) -> None:
    """Checkpoints hold whole tensors, so a run that was sharded can go on alone."""
    options = {"optimizer": "adamw", "checkpoint_every": 10}
    with pytest.raises(AssertionError):
        train(tmp_path, "run", 2, shard=2, kill=13, **options)
    assert [p.name for p in (tmp_path / "run/scratch").glob("checkpoint-*")] == ["checkpoint-00000010"]
    assert load_file(tmp_path / "run/scratch/checkpoint-00000010/weights.safetensors")["embedding.weight"].ndim == 2
    assert train(tmp_path, "run", 1, **options) == pytest.approx(alone["adamw"], abs=1e-5)


def test_a_killed_worker_is_restarted(tmp_path: Path, alone: dict[str, list[float]]) -> None:
    """torchrun starts the processes again and the run goes on from its last checkpoint."""
    options = {"optimizer": "adamw", "checkpoint_every": 5, "kill": 12}
    assert train(tmp_path, "run", 2, "--max-restarts=1", **options) == pytest.approx(alone["adamw"], abs=1e-5)
    assert (tmp_path / "run/killed").exists()
