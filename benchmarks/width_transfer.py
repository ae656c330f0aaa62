"""Whether rates found at one width are right at eight times the width (muP, `--base-width`), and what happens without.

    python benchmarks/width_transfer.py --tokens DIR [--widths 64 128 256 512] [--ways adamw plain muon] [--steps 200]

One decoder (three blocks, head not tied) at each width, trained at each rate of a grid in powers of two on the same
rows. A cell is the held-out loss in nats a token at the end; the best of a row is marked. With muP the best rate of the
narrowest must be best, or next to the best, at every width; `plain` is AdamW that takes the rates as they are.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch

from foundling.core import progress
from foundling.core.errors import FoundlingError
from foundling.core.hardware import describe
from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import TrainingConfig
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

LAYERS, HEAD, ROWS, CONTEXT = 3, 32, 8, 128
RATES = {
    "adamw": [2.0**power for power in range(-10, -3)],
    "plain": [2.0**power for power in range(-10, -3)],
    "muon": [0.02 * 2.0**power for power in range(-3, 4)],  # of the matrices; AdamW's is three quarters of it
}


def shape(width: int, vocab_size: int) -> ModelConfig:
    """The benchmark's decoder at a width."""
    heads = width // HEAD
    mixer = AttentionConfig(n_heads=heads, n_kv_heads=heads, head_dim=HEAD, rope=RopeConfig(), qk_norm=NormConfig())
    blocks = uniform_blocks(LAYERS, mixer, MLPConfig(hidden=3 * width))
    return ModelConfig(family="qwen3", vocab_size=vocab_size, dim=width, blocks=blocks, tie_embeddings=False)


def loss_at(way: str, width: int, base: int, rate: float, tokens: Path, steps: int) -> float:
    """Held-out nats a token after training at one rate."""
    train = TokenSplit(tokens, "train")
    rates = {"matrix_learning_rate": rate, "learning_rate": 0.75 * rate} if way == "muon" else {"learning_rate": rate}
    options = {"steps": steps, "batch_size": ROWS, "context": CONTEXT, "checkpoint_every_s": 1e9, **rates}
    options |= {"optimizer": "muon" if way == "muon" else "adamw", "base_width": 0 if way == "plain" else base}
    config = TrainingConfig.model_validate(options)
    module = build(shape(width, train.vocab_size), 0)
    held_out = HeldOut(TokenSplit(tokens, "validation"), CONTEXT, 30_000)
    with tempfile.TemporaryDirectory() as scratch:
        objective = Causal(train, CONTEXT, ROWS, 0)
        try:
            Trainer(module, objective, config, Path(scratch), log=Path(scratch) / "log.jsonl").fit()
        except FoundlingError:  # not a number any more
            return math.inf
    with torch.no_grad():
        return held_out.score(module.eval())["nats_per_token"]


def main() -> None:
    """Print a table for each way, and whether the rates carried over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="a tokens artifact")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--ways", nargs="+", default=list(RATES), choices=RATES)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    progress.set_quiet(True)
    print(f"{options.steps} steps of {ROWS} x {CONTEXT} tokens; held-out nats a token, * the best of the row")
    for way in options.ways:
        rates, best = RATES[way], []
        titles = {"adamw": "AdamW, muP", "plain": "AdamW, as it is", "muon": "Muon, muP"}
        print(f"{titles[way]:16}" + "".join(f"{rate:10.4f}" for rate in rates), flush=True)
        for width in options.widths:
            losses = [loss_at(way, width, options.widths[0], rate, options.tokens, options.steps) for rate in rates]
            best.append(min(range(len(rates)), key=losses.__getitem__))
            cells = (f"{loss:9.4f}{'*' if i == best[-1] else ' '}" for i, loss in enumerate(losses))
            print(f"  width {width:<8}" + "".join(cells), flush=True)
        moved = max(abs(place - best[0]) for place in best)
        print(f"  best rate moves by {moved} step{'s' if moved != 1 else ''} of the grid at most (muP's goal: 1)")
    print(describe())


if __name__ == "__main__":
    main()
