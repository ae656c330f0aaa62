"""What each objective makes a model good at: one architecture, the same text, equal compute, four questions.

    python benchmarks/objectives.py --life quickstart [--store runs] [--steps 300] [--seeds 2] [--objectives causal ...]

generation   bits per byte of held-out text, left to right (lower is better); models that see both ways have none
infilling    nats for each of 8 hidden tokens in the middle of 96 (lower), asked the way each was trained
classifying  accuracy of a linear probe on the mean hidden state: which of six sources a window is from (higher)
retrieval    how often the second half of a window is the nearest of 256 to its first half (higher)

A cell is the mean over the seeds, with half their range where there are several.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from foundling.core import progress
from foundling.core.artifacts import Store
from foundling.core.lives import artifact_of
from foundling.models.build import build
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import PretrainConfig
from foundling.training.objectives.choices import (
    BOTH_WAYS,
    build_objective,
    seeing_both_ways,
    special_tokens,
    with_special_tokens,
)
from foundling.training.objectives.contrastive import Contrastive, Crops, Embedder
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

OBJECTIVES = (
    "causal",
    "prefix_lm",
    "fill_in_the_middle",
    "masked",
    "masked_diffusion",
    "span_corruption",
    "contrastive",
)
QUESTIONS = ("generation", "infilling", "classifying", "retrieval")
CONTEXT, ROWS, PRESET = 128, 16, "foundling-1m"
WINDOW, FIRST, LAST = 96, 44, 52  # of infilling: tokens shown in all, and those hidden
CLASSES, TRAIN, TEST = 6, 100, 50  # of the probe: sources, windows of each
CANDIDATES, HALF = 256, 64


def main() -> None:
    """Train every objective with every seed, ask the four questions, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--life", default="quickstart")
    parser.add_argument("--store", default="runs")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    options = parser.parse_args()
    progress.set_quiet(True)
    store = Store(Path(options.store))
    tokens, corpus = (artifact_of(store, f"{options.life}/{kind}", kind) for kind in ("tokens", "corpus"))
    assert tokens is not None and corpus is not None
    tests = Questions(tokens.path, corpus.path)
    print(f"{PRESET}, {options.steps} steps of {ROWS} x {CONTEXT} tokens, {options.seeds} seeds; ", end="")
    print("by chance: classifying 0.167, retrieval 0.004")
    print(f"{'objective':20}" + "".join(f"{name:>18}" for name in QUESTIONS))
    for objective in options.objectives:
        found = [tests.ask(objective, options.steps, seed) for seed in range(options.seeds)]
        print(f"{objective:20}" + "".join(f"{shown([row[i] for row in found]):>18}" for i in range(4)), flush=True)


def shown(values: Sequence[float]) -> str:
    """ "0.812 ± 0.010" """
    if np.isnan(values).any():
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


class Questions:
    """The data of the four questions, the same for all."""

    def __init__(self, tokens: Path, corpus: Path) -> None:
        self.folder, self.tokenizer = tokens, Tokenizer.load(tokens)
        self.train, validation = TokenSplit(tokens, "train"), TokenSplit(tokens, "validation")
        self.held_out = HeldOut(validation, CONTEXT, 60_000)
        starts = np.arange(200) * (len(validation.stream) // 201)
        self.gaps = torch.from_numpy(np.stack([validation.window(int(at), WINDOW) for at in starts]))  # (200, WINDOW)
        self.labelled = self._labelled(pl.read_parquet(corpus / "train.parquet", columns=["source"])["source"])
        self.halves = self._windows(np.flatnonzero(np.diff(self.train.starts) > 2 * HALF)[:CANDIDATES], 2 * HALF)

    def ask(self, name: str, steps: int, seed: int) -> tuple[float, float, float, float]:
        """Train one objective and answer: generation, infilling, classifying, retrieval."""
        module, tokenizer = self._trained(name, steps, seed)
        module.eval()
        with torch.no_grad():
            left_to_right = name not in (*BOTH_WAYS, "contrastive")
            generation = self.held_out.score(module)["bits_per_byte"] if left_to_right else float("nan")
            gaps = INFILLING[name](module, self.gaps, tokenizer) if name in INFILLING else float("nan")
            (x, y), (test_x, test_y) = ((embed(module, t), labels) for t, labels in self.labelled)
            queries, passages = embed(module, self.halves[:, :HALF]), embed(module, self.halves[:, HALF:])
            nearest = (functional.normalize(queries) @ functional.normalize(passages).mT).argmax(-1)
        probe = linear_probe(x, y)
        accuracy = float((probe(test_x).argmax(-1) == test_y).float().mean())
        return generation, gaps, accuracy, float((nearest == torch.arange(len(nearest))).float().mean())

    def _trained(self, name: str, steps: int, seed: int) -> tuple[LanguageModel, Tokenizer]:
        chosen = "masked" if name == "contrastive" else name
        options = {"objective": chosen, "steps": steps, "batch_size": ROWS, "context": CONTEXT, "seed": seed}
        config = PretrainConfig.model_validate(options | {"checkpoint_every_s": 1e9})
        tokenizer = with_special_tokens(Tokenizer.load(self.folder), special_tokens(config))
        shape = preset(PRESET, vocab_size=tokenizer.vocab_size)
        module = build(seeing_both_ways(shape) if chosen in BOTH_WAYS else shape, seed)
        objective: Any = build_objective(config, self.train, tokenizer)
        trained: torch.nn.Module = module
        if name == "contrastive":
            crops = Crops(self.train, HALF, seed)
            objective, trained = Contrastive(crops, HALF, ROWS, seed, pad_id=tokenizer.eot_id), Embedder(module)
        with tempfile.TemporaryDirectory() as scratch:
            Trainer(trained, objective, config, Path(scratch), log=Path(scratch) / "log.jsonl").fit()
        return module, tokenizer

    def _labelled(self, sources: pl.Series) -> list[tuple[Tensor, Tensor]]:
        """(windows, labels) to fit the probe on and to test it on: documents of the most frequent sources."""
        long = np.diff(self.train.starts) > CONTEXT
        names = sources.filter(pl.Series(long)).value_counts(sort=True).filter(pl.col("count") >= TRAIN + TEST)
        parts: list[list[tuple[Tensor, int]]] = [[], []]
        for label, name in enumerate(names["source"].to_list()[:CLASSES]):
            chosen = np.flatnonzero((sources == name).to_numpy() & long)[: TRAIN + TEST]
            windows = self._windows(chosen, CONTEXT)
            parts[0] += [(window, label) for window in windows[:TRAIN]]
            parts[1] += [(window, label) for window in windows[TRAIN:]]
        return [(torch.stack([w for w, _ in part]), torch.tensor([label for _, label in part])) for part in parts]

    def _windows(self, documents: Any, length: int) -> Tensor:
        """(documents, length): the middle of each."""
        middles = [self.train.document(int(d)) for d in documents]
        return torch.from_numpy(np.stack([d[(len(d) - length) // 2 :][:length] for d in middles]))


def embed(module: LanguageModel, tokens: Tensor) -> Tensor:
    """(rows, dim): the mean final hidden state."""
    return torch.cat([module.hidden(part).float().mean(1) for part in tokens.split(64)])


def linear_probe(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """Logistic regression with a little weight decay, on standardised features."""
    mean, scale = x.mean(0), x.std(0) + 1e-6
    layer = torch.nn.Linear(x.shape[1], CLASSES)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(layer((x - mean) / scale), y) + 1e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda z: layer((z - mean) / scale)


# --- infilling, asked the way each objective was trained --------------------------------------------------------------


def from_the_left(module: LanguageModel, gaps: Tensor, tokenizer: Tokenizer) -> float:
    """Only what stands before is seen."""
    logits = module(gaps[:, : LAST - 1])[:, FIRST - 1 :]
    return nats(logits, gaps)


def with_masks(module: LanguageModel, gaps: Tensor, tokenizer: Tokenizer) -> float:
    """All hidden tokens at once, from both sides."""
    hidden = gaps.clone()
    hidden[:, FIRST:LAST] = tokenizer.special_tokens["<|mask|>"]
    return nats(module(hidden)[:, FIRST:LAST], gaps)


def in_the_middle(module: LanguageModel, gaps: Tensor, tokenizer: Tokenizer) -> float:
    """<prefix> <suffix> after <middle> before, then the hidden tokens (SPM: they follow what stood before them)."""
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    prefix, suffix, middle = (torch.full((len(gaps), 1), tokenizer.special_tokens[name]) for name in names)
    row = torch.cat([prefix, suffix, gaps[:, LAST:], middle, gaps[:, :LAST]], 1)
    return nats(module(row[:, :-1])[:, FIRST - LAST :], gaps)


def as_a_span(module: LanguageModel, gaps: Tensor, tokenizer: Tokenizer) -> float:
    """A sentinel where the tokens were, then the sentinel and the tokens."""
    sentinel = torch.full((len(gaps), 1), tokenizer.special_tokens["<|extra_0|>"])
    row = torch.cat([gaps[:, :FIRST], sentinel, gaps[:, LAST:], sentinel, gaps[:, FIRST:LAST]], 1)
    ctx = Context.full(len(row), row.shape[1] - 1, row.device)
    ctx.prefix = torch.full((len(row),), WINDOW - (LAST - FIRST) + 1)
    return nats(module(row[:, :-1], ctx)[:, FIRST - LAST :], gaps)


def nats(logits: Tensor, gaps: Tensor) -> float:
    """Mean cross entropy of the hidden tokens under logits (rows, hidden, vocab)."""
    return float(functional.cross_entropy(logits.flatten(0, 1).float(), gaps[:, FIRST:LAST].flatten()))


INFILLING: dict[str, Callable[[LanguageModel, Tensor, Tokenizer], float]] = {
    "causal": from_the_left,
    "prefix_lm": from_the_left,
    "fill_in_the_middle": in_the_middle,
    "masked": with_masks,
    "masked_diffusion": with_masks,
    "span_corruption": as_a_span,
}

if __name__ == "__main__":
    main()
