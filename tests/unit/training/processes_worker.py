"""A worker of the tests with several processes: trains a small model and, on the first process, writes its losses."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.training.config import TrainingConfig
from foundling.training.objective import Objective
from foundling.training.objectives.causal import Causal
from foundling.training.objectives.contrastive import Contrastive, Embedder, Pair
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer


def shape(vocab_size: int) -> ModelConfig:
    mixer = AttentionConfig(n_heads=8, n_kv_heads=4, head_dim=8, rope=RopeConfig(), qk_norm=NormConfig())
    return ModelConfig(
        family="qwen3",
        vocab_size=vocab_size,
        dim=32,
        blocks=uniform_blocks(2, mixer, MLPConfig(hidden=64)),
        tie_embeddings=True,
    )


class KillOnce(Causal):
    """Kills one process (the second, or the only one) at a step, the first time."""

    def __init__(self, *arguments: object, mark: Path, step: int) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.mark, self.at = mark, step

    def batch(self, step: int, model: object = None):  # type: ignore[no-untyped-def]
        if step == self.at and os.environ.get("RANK", "1") == "1" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step)


def fill_disk() -> None:
    """Let this process find the disk full from now on."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    HuggingFaceStorageWriter.write_data = full  # type: ignore[method-assign, assignment]


class FullDisk(Causal):
    """Batches whose second process finds the disk full from a step on."""

    def __init__(self, *arguments: Any, step: int) -> None:
        super().__init__(*arguments)
        self.at = step

    def batch(self, step: int, model: object = None):  # type: ignore[no-untyped-def]
        if step == self.at and os.environ.get("RANK") == "1":
            fill_disk()
        return super().batch(step)


class Halves:
    """The two halves of a document's first tokens; every second pair has a negative, every tenth a text of another."""

    def __init__(self, split: TokenSplit) -> None:
        self.documents = [split.document(number).tolist() for number in range(24)]

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Pair:
        number = index % len(self)
        document, other = self.documents[number], self.documents[number - 1]
        query = self.documents[0][:4] if number % 10 == 0 else document[:4]
        return Pair(query, document[4:10], str(number), (other[2:7],) if number % 2 else ())


def main(tokens: str, out: str, runs: str) -> None:
    """Make every run of `runs`, {name: settings} as JSON, one after the other, in the folder `out`/name."""
    split = TokenSplit(Path(tokens), "train")
    for name, settings in json.loads(runs).items():
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        kill, full, contrast = settings.pop("kill", -1), settings.pop("full", -1), settings.pop("contrast", False)
        config = TrainingConfig(**settings)
        arguments = (split, config.context, config.batch_size, config.seed)
        objective: Objective = KillOnce(*arguments, mark=folder / "killed", step=kill)
        objective = FullDisk(*arguments, step=full) if full >= 0 else objective
        module: nn.Module = build(shape(split.vocab_size), 0, zero_outputs=False)
        if contrast:
            objective = Contrastive(Halves(split), *arguments[1:], pad_id=0, negatives=1)
            module = Embedder(module)
        log = folder / f"log{os.environ.get('RANK', '0')}.log.jsonl"
        Trainer(module, objective, config, folder / "scratch", log=log).fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
