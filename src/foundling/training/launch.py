"""Starting several processes on this machine that train together, and bringing back what they made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.core.files import write_json
from foundling.core.hardware import threads
from foundling.training import checkpoint
from foundling.training.config import PretrainConfig
from foundling.training.preparation import Preparation
from foundling.training.signals import StopSignals
from foundling.training.trainer import TrainingSummary
from foundling.training.worker import ERROR, SUMMARY, WEIGHTS

RESTARTS = 3  # of all processes, from the last checkpoint, when one dies


def together(
    config: PretrainConfig, parts: Preparation, tokens: Path, base: Path | None, scratch: Path, log: Path, data: str
) -> TrainingSummary:
    """Train with `config.processes` processes and leave the weights in `parts.module`.

    Raises:
        FoundlingError: what a process refused, or that one kept dying.
        Interrupted: SIGTERM or SIGINT; a checkpoint is saved.
    """
    told = {"config": json.loads(config.model_dump_json()), "tokens": str(tokens), "data": data, "log": str(log)}
    write_json(scratch / "job.json", told | {"base": str(base) if base else None})
    for name in (ERROR, SUMMARY):
        (scratch / name).unlink(missing_ok=True)
    shutil.rmtree(scratch / WEIGHTS, ignore_errors=True)
    with StopSignals() as signals:
        code = _run(scratch / "job.json", config.processes, signals)
        signals.raise_if_received(*_progress(scratch, config))
    if (scratch / ERROR).exists():
        raise FoundlingError(**json.loads((scratch / ERROR).read_text(encoding="utf-8")))
    if code:
        what = f"one of {config.processes} training processes died {RESTARTS + 1} times"
        raise FoundlingError(
            what, "its last messages are above", "Run the same command again to go on from the checkpoint"
        )
    checkpoint.load_weights(scratch / WEIGHTS, parts.module)
    return TrainingSummary(**json.loads((scratch / SUMMARY).read_text(encoding="utf-8")))


def _run(job: Path, processes: int, signals: StopSignals) -> int:
    """torchrun on this machine; a signal is passed on, and every process then saves and stops."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", f"--max-restarts={RESTARTS}"]
    command = [sys.executable, "-m", *torchrun, "-m", "foundling.training.worker", str(job)]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, threads() // processes))}
    with subprocess.Popen(command, env=environment) as process:
        told = False
        while True:
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if signals.received is not None and not told:
                    process.send_signal(signals.received)
                    told = True


def _progress(scratch: Path, config: PretrainConfig) -> tuple[int, int]:
    path = checkpoint.latest(scratch)
    return (checkpoint.step_of(path) if path else 0), config.steps
