"""Several gloo processes must train exactly as one does: data parallel, sharded, sliced, and mixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_tokens

from foundling.training.checkpoint import latest
from foundling.training.sharded_files import contents, read

WORKER = Path(__file__).with_name("processes_worker.py")
BASE = {
    "steps": 20,
    "batch_size": 8,
    "context": 16,
    "precision": "fp32",
    "log_every": 1,
    "schedule": "constant",
    "learning_rate": 0.003,
    "matrix_learning_rate": 0.01,
}


TOGETHER = {
    2: {
        "data2": {"optimizer": "muon"},
        "shard2": {"optimizer": "adamw", "shard": 0},
        "tensor2": {"optimizer": "muon", "tensor": 2},
    },
    4: {
        "replica2-shard2": {"optimizer": "muon", "shard": 2},
        "shard2-tensor2": {"optimizer": "adamw", "tensor": 2, "shard": 2},
        "tensor4-recompute": {"optimizer": "adamw", "tensor": 4, "recompute": "all"},
    },
}
RUNS = [(processes, name) for processes, runs in TOGETHER.items() for name in runs]


def train(folder: Path, processes: int, runs: dict[str, dict[str, object]], *launch: str) -> dict[str, list[dict]]:  # type: ignore[type-arg]
    """The log lines of each run, made by one set of processes; `launch` are further arguments of torchrun."""
    tokens = write_tokens(folder / "tokens")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *launch]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(WORKER), str(tokens), str(folder)]
    settings = json.dumps({name: BASE | options for name, options in runs.items()})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, settings], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = {name: (folder / name / "log0.log.jsonl").read_text().splitlines() for name in runs}
    return {name: [json.loads(line) for line in lines] for name, lines in logs.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:  # type: ignore[type-arg]
    """What one process logs, by optimizer."""
    return train(tmp_path_factory.mktemp("alone"), 1, {name: {"optimizer": name} for name in ("muon", "adamw")})


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:  # type: ignore[type-arg]
    """What the first of several processes logs, by run."""
    logs: dict[str, list[dict]] = {}  # type: ignore[type-arg]
    for processes, runs in TOGETHER.items():
        with_parts = {name: options | {"micro_batch": 2} for name, options in runs.items()}
        logs |= train(tmp_path_factory.mktemp(f"together{processes}"), processes, with_parts)
    return logs


@pytest.mark.parametrize(("processes", "name"), RUNS)
def test_same_losses_as_one_process(processes: int, name: str, alone: dict, together: dict) -> None:  # type: ignore[type-arg]
    """A gradient that is averaged twice, or a piece that is not summed, shows within 20 steps, or in its norm."""
    reference = alone[str(TOGETHER[processes][name]["optimizer"])]
    losses, norms = ([line[key] for line in together[name]] for key in ("loss", "grad_norm"))
    assert len(losses) == 20 and losses[-1] < losses[0] - 0.3
    assert losses == pytest.approx([line["loss"] for line in reference], abs=1e-5)
    assert norms == pytest.approx([line["grad_norm"] for line in reference], rel=1e-3)


def test_contrast_is_with_the_pairs_of_all_processes(tmp_path: Path) -> None:
    """Two processes with four pairs each must learn what one learns from eight: negatives and equal texts included."""
    options: dict[str, object] = {"contrast": True, "optimizer": "adamw"}
    one, two = (train(tmp_path / str(n), n, {"run": dict(options)})["run"] for n in (1, 2))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-5)
    assert [line["grad_norm"] for line in two] == pytest.approx([line["grad_norm"] for line in one], rel=1e-3)
    assert one[-1]["loss"] < one[0]["loss"] - 0.3


@pytest.mark.parametrize(
    ("before", "spread", "after", "then"),
    [(2, {"shard": 2}, 1, {}), (4, {"shard": 2, "tensor": 2}, 2, {"tensor": 2}), (1, {}, 2, {"shard": 2})],
)
def test_goes_on_with_another_number_of_processes(
    tmp_path: Path,
    alone: dict,
    before: int,
    spread: dict,
    after: int,
    then: dict,  # type: ignore[type-arg]
) -> None:
    """Files say where their pieces belong, so a run goes on however many there are, optimizer, average and all."""
    options: dict[str, object] = {"optimizer": "adamw", "average": 0.9, "checkpoint_every": 5}
    with pytest.raises(AssertionError):
        train(tmp_path, before, {"run": options | spread | {"kill": 13}})
    found = latest(tmp_path / "run/scratch")  # of step 5 if that of step 10 was still being written
    assert found is not None
    for folder in (found / "weights", found / "optimizer"):
        files = list(folder.iterdir())
        assert len(files) == before
        held = [sum(t.numel() for t in load_file(file).values()) for file in files]
        assert sum(held) == sum(t.numel() for t in contents(folder).values()), "each piece is written once"
        assert max(held) < 1.4 * sum(held) / before, "by whoever holds it"
    lines = train(tmp_path, after, {"run": options | then})["run"]
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in alone["adamw"]], abs=1e-5)
    averages = {name: t for name, t in whole(tmp_path / "run/scratch").items() if name.startswith("average:")}
    train(tmp_path / "never stopped", 1, {"run": options})
    for name, average in whole(tmp_path / "never stopped/run/scratch").items():
        if name in averages:
            assert torch.allclose(averages[name], average, atol=1e-5), name


def whole(scratch: Path) -> dict[str, torch.Tensor]:
    """What lies beside the weights in the checkpoint of a scratch folder, put together."""
    (found,) = scratch.glob("checkpoint-*")
    tensors = {name: torch.empty_like(t, device="cpu") for name, t in contents(found / "optimizer").items()}
    read(found / "optimizer", tensors)
    return tensors


def test_a_disk_that_is_full_for_one_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """All processes must stop with the reason, and the checkpoint before must be whole."""
    with pytest.raises(AssertionError, match="checkpoint-00000005 is intact"):
        train(tmp_path, 2, {"run": {"shard": 2, "checkpoint_every": 5, "full": 7}})
    assert [p.name for p in (tmp_path / "run/scratch").iterdir()] == ["checkpoint-00000005"]


def test_a_killed_worker_is_restarted(tmp_path: Path, alone: dict) -> None:  # type: ignore[type-arg]
    """torchrun starts the processes again and the run goes on from its last checkpoint."""
    options: dict[str, object] = {"optimizer": "adamw", "checkpoint_every": 5, "kill": 12}
    lines = train(tmp_path, 2, {"run": options}, "--max-restarts=3")["run"]
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in alone["adamw"]], abs=1e-5)
    assert (tmp_path / "run/killed").exists()


def test_a_mesh_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    """Three slices of two processes, or heads that cannot be divided, must be one clear sentence."""
    with pytest.raises(AssertionError, match="does not divide 2 processes"):
        train(tmp_path, 2, {"run": {"shard": 3}})
