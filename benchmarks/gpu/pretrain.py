"""Pretraining on one GPU: the share of its measured bf16 matrix rate that a dense model of a billion weights reaches.

    python benchmarks/gpu/pretrain.py [--precision bf16 fp8] [--rows 8] [--context 2048] [--steps 12]

The goal on an H200 is 55% in bf16. Random tokens, the default optimizer, compiled blocks; the first steps, which
compile, are not counted. Where there is no GPU it says so and stops.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from foundling.core import hardware, progress
from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, RopeConfig, uniform_blocks
from foundling.training.batch import Batch
from foundling.training.config import TrainingConfig
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.trainer import Trainer

VOCAB, GOAL, FIRST = 32_000, 0.55, 4  # FIRST: steps that are not counted


def shape() -> ModelConfig:
    """A Llama of 1.1 billion weights (TinyLlama's)."""
    mixer = AttentionConfig(n_heads=32, n_kv_heads=4, head_dim=64, rope=RopeConfig())
    blocks = uniform_blocks(22, mixer, MLPConfig(hidden=5632))
    return ModelConfig(family="llama", vocab_size=VOCAB, dim=2048, blocks=blocks, tie_embeddings=False)


class RandomTokens:
    """Rows of random tokens."""

    def __init__(self, rows: int, context: int) -> None:
        self.shape = (rows, context + 1)

    def batch(self, step: int, model: torch.nn.Module | None = None) -> Batch:
        """The rows of a step."""
        tokens = torch.from_numpy(np.random.default_rng(step).integers(0, VOCAB, self.shape))
        return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(self.shape[0], self.shape[1] - 1))

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        """Next-token cross entropy."""
        return next_token_loss(model, batch)


def measure(precision: str, rows: int, context: int, steps: int) -> None:
    """Train some steps and print their speed."""
    options = {"precision": precision, "steps": steps + FIRST, "batch_size": rows, "context": context, "compile": True}
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        module = build(shape(), 0).to(hardware.device()).train()
        log = Path(scratch) / "log.jsonl"
        config = TrainingConfig.model_validate(options)
        trainer = Trainer(module, RandomTokens(rows, context), config, Path(scratch), log=log)
        before = torch.cuda.max_memory_allocated()
        for step in range(config.steps):  # the loop's own steps, without the checkpoint that it ends with
            began = time.perf_counter()
            trainer._train_step(step)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    seconds = statistics.median(times[FIRST:])
    rate = rows * context / seconds * module.config.flops_per_token(context, training=True)
    peak = hardware.measure().bf16
    print(
        f"{precision}: {module.config.n_parameters() / 1e9:.2f}B parameters, {rows * context / seconds:,.0f} tokens/s, "
        f"{rate / 1e12:.0f} of {peak / 1e12:.0f} TFLOP/s measured in bf16: {rate / peak:.0%} (goal {GOAL:.0%}); memory "
        f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB, of which {before / 1e9:.1f} before the first step"
    )


def main() -> int:
    """Measure every precision asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=["bf16"], choices=("bf16", "fp8"))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("this benchmark needs a GPU, and torch finds none here")
        return 0
    progress.set_quiet(True)
    print(torch.cuda.get_device_name())
    for precision in options.precision:
        measure(precision, options.rows, options.context, options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
