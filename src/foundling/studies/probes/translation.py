"""Translation in small: every word has its translation and the sentence is reversed, in lengths up to a limit.

Recurrent sequence-to-sequence models with a fixed vector between encoder and decoder, and with attention: the fixed
vector must hold the whole sentence, and fails as sentences grow (Bahdanau et al. 2014, figure 2; Cho et al. 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from foundling.core.rng import numpy_rng, torch_generator
from foundling.models.layers.seq2seq import Seq2Seq
from foundling.models.layers.seq2seq_config import Seq2SeqConfig
from foundling.training.batch import Batch
from foundling.training.objective import LossSum

DESIGNS = {"fixed vector": "none", "additive attention": "additive", "dot-product attention": "dot"}
WORDS = 32
START, PADDING = WORDS, WORDS + 1
LONGEST = 24
TEST_LENGTHS = (4, 8, 12, 16, 20, 24)
STEPS = 800  # of 32 sentences


def translator(design: str, dim: int, seed: int) -> Seq2Seq:
    """The model of a design with random weights."""
    module = Seq2Seq(Seq2SeqConfig(vocab_size=WORDS + 2, dim=dim, hidden=2 * dim, attention=DESIGNS[design]))  # type: ignore[arg-type]
    with torch.no_grad():
        module.init_weights(torch_generator(seed, "translator", design))
    return module


def sentences(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
    """Pairs: `tokens` is the source, `extra` its lengths and the decoder's inputs, `targets` the translation."""
    dictionary = np.random.default_rng(0).permutation(WORDS)
    lengths = rng.integers(shortest, longest + 1, rows)
    source = rng.integers(0, WORDS, (rows, longest))
    place = np.arange(longest)
    inside = place < lengths[:, None]
    mirrored = np.where(inside, lengths[:, None] - 1 - place, 0)
    target = dictionary[np.take_along_axis(source, mirrored, 1)]
    given = np.concatenate([np.full((rows, 1), START), target[:, :-1]], axis=1)
    return Batch(
        tokens=torch.from_numpy(np.where(inside, source, PADDING)),
        targets=torch.from_numpy(target),
        loss_mask=torch.from_numpy(inside.astype(np.float32)),
        extra={"lengths": torch.from_numpy(lengths), "given": torch.from_numpy(given)},
    )


class Translation:
    """Teacher-forced cross entropy on fresh sentences."""

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Sentences of all lengths up to LONGEST."""
        return sentences(numpy_rng(self.seed, "translation", step), self.batch_size, 1, LONGEST)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed cross entropy of the translation's words, in nats."""
        logits = model(batch.tokens, batch.extra["lengths"], batch.extra["given"])
        losses = nn.functional.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none")
        return LossSum((losses * batch.loss_mask.flatten()).sum(), batch.scored())


def accuracy_by_length(module: nn.Module, rows: int) -> dict[str, float]:
    """Part of the words that greedy translation gets right, for each length of the source."""
    assert isinstance(module, Seq2Seq)
    found, device = {}, next(module.parameters()).device
    for length in TEST_LENGTHS:
        batch = sentences(numpy_rng("translation test", length), rows, length, length).to(device)
        guess = module.greedy(batch.tokens, batch.extra["lengths"], START, length)
        found[str(length)] = float((guess == batch.targets).float().mean())
    return found
