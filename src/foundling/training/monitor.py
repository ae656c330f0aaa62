"""The numbers of a run: a JSON line now and then, and how near the machine's limit it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundling.core import hardware
from foundling.core.errors import FoundlingError
from foundling.training.config import TrainingConfig


@dataclass
class StepReport:
    """One optimizer step. `loss` is the mean over what was scored; `tokens` counts all positions of the step."""

    step: int
    loss: float
    grad_norm: float
    rate: float
    tokens: int
    metrics: dict[str, float]


class Monitor:
    """Writes the log and measures speed. Lines after the resumed step are dropped, so that a log never repeats itself.

    Args:
        log: JSONL file: {"kind": "step" | "evaluation" | "samples", "step": ..., ...}.
        flops_per_token: of a training step, for MFU; 0: unknown.
    """

    def __init__(self, log: Path, config: TrainingConfig, flops_per_token: float) -> None:
        self.log, self.every = log, config.log_every
        self.flops_per_token = flops_per_token
        self.peak = hardware.measure().matmul(config.precision) if flops_per_token else 0.0
        self.events = _event_writer(Path(config.tensorboard)) if config.tensorboard else None
        self.tokens = 0
        self.busy_s = 0.0
        self._losses: list[float] = []
        self._window_tokens = 0
        self._window_s = 0.0

    def resume(self, step: int, tokens: int, seconds: float) -> None:
        """Go on from a checkpoint."""
        self.tokens, self.busy_s = tokens, seconds
        self.log.parent.mkdir(parents=True, exist_ok=True)
        *lines, _ = self.log.read_bytes().split(b"\n") if self.log.exists() else [b""]  # the last was cut off, or empty
        self.log.write_bytes(b"".join(line + b"\n" for line in lines if json.loads(line)["step"] <= step))

    def start_step(self) -> None:
        """Start the clock of a step: only training counts, not checkpoints or evaluation."""
        self._started = time.perf_counter()

    def end_step(self, report: StepReport, last: bool) -> None:
        """Count a finished step, and log it when its turn has come."""
        seconds = time.perf_counter() - self._started
        self.tokens += report.tokens
        self.busy_s += seconds
        self._window_tokens += report.tokens
        self._window_s += seconds
        self._losses.append(report.loss)
        if (report.step + 1) % self.every == 0 or last:
            speed = self._window_tokens / max(self._window_s, 1e-9)
            line = asdict(report) | {"step": report.step + 1, "loss": sum(self._losses) / len(self._losses)}
            self.write("step", **line, seconds=round(self.busy_s, 3), tokens_per_s=round(speed, 1), mfu=self.mfu(speed))
            self._losses, self._window_tokens, self._window_s = [], 0, 0.0

    def write(self, kind: str, **numbers: Any) -> None:
        """Append one line."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind} | numbers, ensure_ascii=False) + "\n")
        if self.events is not None:
            for name, value in _scalars(numbers):
                self.events.add_scalar(f"{kind}/{name}", value, numbers["step"])
            self.events.flush()

    def speed(self) -> float:
        """Tokens a second of training, over the whole run."""
        return self.tokens / max(self.busy_s, 1e-9)

    def mfu(self, tokens_per_s: float) -> float | None:
        """Model FLOPs utilisation: the model's own FLOPs a second over the measured matrix rate (PaLM, appendix B)."""
        return round(tokens_per_s * self.flops_per_token / self.peak, 4) if self.peak else None


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        what = "tensorboard: the package is not installed"
        raise FoundlingError(what, fix="pip install tensorboard, or leave the option out") from error
    return SummaryWriter(str(folder))


def _scalars(numbers: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield f"{prefix}{name}", float(value)
