"""What each objective makes a model good at: one architecture, the same text, equal compute, four questions.

    python benchmarks/objectives.py --life quickstart [--store runs] [--steps 300] [--seeds 2] [--base quickstart/base]

generation   bits per byte of held-out text, left to right (lower is better); models that see both ways have none
infilling    nats for each of 8 hidden tokens in the middle of 96 held-out ones (lower), asked the way each was
             trained; those that fill in masks are shown the hidden tokens one after the other, as decoders are
classifying  accuracy of a linear probe on the mean hidden state: which of six sources a window is from (higher)
retrieval    how often a crop of a held-out document is nearest to another crop of it, of 57 documents (higher)

A cell is the mean over the seeds, with half their range where there are several. With `--base` every objective goes on
from the same model instead of random weights, by the same rates, and the first row is that model as it is.
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
from foundling.models.checkpoint import load_module
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import PretrainConfig
from foundling.training.objective import Objective
from foundling.training.objectives.choices import BOTH_WAYS
from foundling.training.objectives.contrastive import Contrastive, Crops, Embedder
from foundling.training.preparation import prepare
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
CLASSES, TRAIN, TEST, WINDOWS = 6, 100, 50, 2  # of the probe: sources, documents of each, windows of a document
CROP, DRAWS, PAIRS = 64, 20, 4 * ROWS  # of retrieval: tokens, draws from each document; pairs in a contrastive step


def main() -> None:
    """Train every objective with every seed, ask the four questions, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--life", default="quickstart")
    parser.add_argument("--store", default="runs")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--base", help="a model to go on from: life/stage or key")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    options = parser.parse_args()
    progress.set_quiet(True)
    store = Store(Path(options.store))
    tokens, corpus = (artifact_of(store, f"{options.life}/{kind}", kind) for kind in ("tokens", "corpus"))
    assert tokens is not None and corpus is not None
    base = artifact_of(store, options.base) if options.base else None
    tests = Questions(tokens.path, corpus.path, base.path if base else None)
    print(
        f"{options.base or PRESET}, {options.steps} steps of {ROWS} x {CONTEXT} tokens, {options.seeds} seeds; ", end=""
    )
    print(f"by chance: classifying {1 / CLASSES:.3f}, retrieval {1 / len(tests.crops[0][0]):.3f}")
    print(f"{'objective':20}" + "".join(f"{name:>18}" for name in QUESTIONS))
    if base:
        found = tests.answers(load_module(base.path), "causal", tests.tokenizer)
        print(f"{'the base':20}" + "".join(f"{shown([value]):>18}" for value in found), flush=True)
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

    def __init__(self, tokens: Path, corpus: Path, base: Path | None) -> None:
        self.folder, self.base, self.tokenizer = tokens, base, Tokenizer.load(tokens)
        self.train, validation = TokenSplit(tokens, "train"), TokenSplit(tokens, "validation")
        self.held_out = HeldOut(validation, CONTEXT, 60_000)
        starts = np.arange(200) * (len(validation.stream) // 201)
        self.gaps = torch.from_numpy(np.stack([validation.window(int(at), WINDOW) for at in starts]))  # (200, WINDOW)
        self.labelled = self._labelled(pl.read_parquet(corpus / "train.parquet", columns=["source"])["source"])
        self.crops = [crops_of(validation, draw) for draw in range(DRAWS)]

    def ask(self, name: str, steps: int, seed: int) -> tuple[float, float, float, float]:
        """Train one objective and answer: generation, infilling, classifying, retrieval."""
        return self.answers(*self._trained(name, steps, seed))

    def answers(self, module: LanguageModel, name: str, tokenizer: Tokenizer) -> tuple[float, float, float, float]:
        """The four answers of a model that an objective has trained."""
        module.eval()
        with torch.no_grad():
            left_to_right = name not in (*BOTH_WAYS, "contrastive")
            generation = self.held_out.score(module)["bits_per_byte"] if left_to_right else float("nan")
            gaps = INFILLING[name](module, self.gaps, tokenizer) if name in INFILLING else float("nan")
            (x, y), (test_x, test_y) = ((embed(module, t), labels) for t, labels in self.labelled)
            found = [nearest_is_own(embed(module, a), embed(module, b)) for a, b in self.crops]
        probe = linear_probe(x, y)
        accuracy = float((probe(test_x).argmax(-1) == test_y).float().mean())
        return generation, gaps, accuracy, float(np.mean(found))

    def _trained(self, name: str, steps: int, seed: int) -> tuple[LanguageModel, str, Tokenizer]:
        """A model, its objective, its tokenizer. A contrastive step has more pairs, for more negatives: fewer steps."""
        contrast = name == "contrastive"
        options: dict[str, Any] = {"batch_size": ROWS, "context": CONTEXT, "seed": seed, "preset": PRESET}
        options |= {"steps": steps * ROWS // PAIRS if contrast else steps, "checkpoint_every_s": 1e9}
        options |= {"learning_rate": 3e-3, "matrix_learning_rate": 3e-3} if self.base else {}
        config = PretrainConfig.model_validate(options | {"objective": "causal" if contrast else name})
        parts = prepare(config, self.folder, self.base)
        objective: Objective = parts.objective
        trained: torch.nn.Module = parts.module
        if contrast:
            pad_id = parts.tokenizer.eot_id
            objective = Contrastive(Crops(self.train, CROP, seed), CROP, PAIRS, seed, pad_id=pad_id)
            trained = Embedder(parts.module)
        with tempfile.TemporaryDirectory() as scratch:
            Trainer(trained, objective, config, Path(scratch), log=Path(scratch) / "log.jsonl").fit()
        return parts.module, name, parts.tokenizer

    def _labelled(self, sources: pl.Series) -> list[tuple[Tensor, Tensor]]:
        """(windows, labels) to fit the probe on and to test it on: documents of the most frequent sources."""
        long = np.diff(self.train.starts) > CONTEXT
        names = sources.filter(pl.Series(long)).value_counts(sort=True).filter(pl.col("count") >= TRAIN + TEST)
        parts: list[list[tuple[Tensor, int]]] = [[], []]
        for label, name in enumerate(names["source"].to_list()[:CLASSES]):
            chosen = np.flatnonzero((sources == name).to_numpy() & long)[: TRAIN + TEST]
            for part, documents in zip(parts, (chosen[:TRAIN], chosen[TRAIN:]), strict=True):
                part += [(window, label) for document in documents for window in self._windows(int(document))]
        return [(torch.stack([w for w, _ in part]), torch.tensor([label for _, label in part])) for part in parts]

    def _windows(self, document: int) -> list[Tensor]:
        """Windows that are spread over a document."""
        tokens = self.train.document(document)
        starts = np.linspace(0, len(tokens) - CONTEXT, WINDOWS).astype(int)
        return [torch.from_numpy(tokens[start : start + CONTEXT]) for start in starts]


def crops_of(split: TokenSplit, draw: int) -> tuple[Tensor, Tensor]:
    """Two random crops (documents, CROP) of every document that has room for two beside each other."""
    rng, pairs = np.random.default_rng(draw), []
    for document in np.flatnonzero(np.diff(split.starts) > 2 * CROP):
        tokens = split.document(int(document))
        middle = int(rng.integers(CROP, len(tokens) - CROP + 1))
        first = int(rng.integers(0, middle - CROP + 1))
        second = int(rng.integers(middle, len(tokens) - CROP + 1))
        pairs.append((tokens[first : first + CROP], tokens[second : second + CROP]))
    one, other = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    return one, other


def nearest_is_own(queries: Tensor, passages: Tensor) -> float:
    """How often the nearest passage, by cosine, is the query's own."""
    nearest = (functional.normalize(queries) @ functional.normalize(passages).mT).argmax(-1)
    return float((nearest == torch.arange(len(nearest))).float().mean())


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
    """From both sides; each hidden token with those before it shown, as a left-to-right model has them."""
    logits = []
    for at in range(FIRST, LAST):
        hidden = gaps.clone()
        hidden[:, at:LAST] = tokenizer.special_tokens["<|mask|>"]
        logits.append(module(hidden)[:, at])
    return nats(torch.stack(logits, 1), gaps)


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
