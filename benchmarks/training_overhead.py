"""How much the training loop costs over a bare PyTorch loop on the same model: steps a second, alternating.

    python benchmarks/training_overhead.py [--steps 30] [--rounds 3]

Both make the same batches, forward and backward passes and optimizer steps. Ours also normalises by the global count,
measures and clips the gradient, checks for NaN, logs, and can be stopped and resumed. The bound is 10 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from foundling.core import progress
from foundling.core.memory import freed_memory_kept
from foundling.models.build import build
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset
from foundling.training.config import PretrainConfig
from foundling.training.objectives.causal import Causal
from foundling.training.optimizers.build import build_optimizers
from foundling.training.precision import LossAt
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

VOCAB = 4096


def random_tokens(folder: Path) -> TokenSplit:
    """A stream of random tokens in the form of a tokens artifact."""
    import json

    stream = np.random.default_rng(0).integers(1, VOCAB, size=400_000).astype("<u2")
    stream.tofile(folder / "train.bin")
    np.save(folder / "train.index.npy", np.array([0, len(stream)]))
    np.save(folder / "train.bytes.npy", np.array([len(stream)]))
    meta = {"dtype": "uint16", "vocab_size": VOCAB, "eot_id": 0, "splits": {"train": {}}}
    (folder / "tokens.json").write_text(json.dumps(meta))
    return TokenSplit(folder, "train")


def bare(module: LanguageModel, objective: Causal, config: PretrainConfig) -> float:
    """Steps a second of a plain loop."""
    loss_at, optimizers = LossAt(module, objective, config.precision), build_optimizers(module, config)
    start = time.perf_counter()
    with freed_memory_kept():
        for step in range(config.steps):
            result = loss_at.compute(objective.batch(step))
            (result.total / result.count).backward()
            optimizers.step()
            module.zero_grad(set_to_none=True)
    return config.steps / (time.perf_counter() - start)


def ours(module: LanguageModel, objective: Causal, config: PretrainConfig, folder: Path) -> float:
    """Steps a second of the Trainer, as its summary counts them and by the clock."""
    log = folder / "training.log.jsonl"
    trainer = Trainer(module, objective, config, folder, log=log)
    start = time.perf_counter()
    trainer.fit()
    return config.steps / (time.perf_counter() - start)


def main() -> None:
    """Print both rates and their ratio, by rounds and as medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="foundling-2m")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    progress.set_quiet(True)
    config = PretrainConfig(steps=options.steps, preset=options.preset, checkpoint_every_s=1e9)
    shape = preset(options.preset, vocab_size=VOCAB)
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        split = random_tokens(Path(name))
        objective = Causal(split, config.context, config.batch_size, config.seed)
        for number in range(options.rounds):
            plain = bare(build(shape, 0), objective, config)
            full = ours(build(shape, 0), objective, config, Path(name) / str(number))
            ratios.append(full / plain)
            print(f"round {number + 1}: bare {plain:.2f} steps/s, ours {full:.2f} steps/s, ratio {ratios[-1]:.3f}")
    print(f"median {statistics.median(ratios):.3f} (bound: 0.90; ours includes the dry run and a checkpoint)")


if __name__ == "__main__":
    main()
