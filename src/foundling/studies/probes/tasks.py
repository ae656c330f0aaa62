"""The probing tasks: each draws rows of tokens, targets and which targets count, as a pure function of a generator.

A row's target at a position is what must be predicted there (not shifted any further).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]
Rows = tuple[Array, Array, Array]  # tokens, targets, counted: (rows, time) each


@dataclass(frozen=True)
class Task:
    """A probing task.

    Args:
        draw: (generator, rows, time) -> tokens, targets, counted.
        train_time: length of the training rows.
        test_times: lengths that are tested; beyond `train_time` it is extrapolation.
        chance: accuracy of guessing.
        steps: of 32 rows, after which most designs that can learn the task have: attention learns suddenly, and late.
        designs: the stacks that it tells apart, in the names of `designs.py`.
    """

    about: str
    draw: Callable[[np.random.Generator, int, int], Rows]
    vocab_size: int
    train_time: int
    test_times: tuple[int, ...]
    chance: float
    steps: int
    designs: tuple[str, ...]


EVERY = ("attention", "mamba", "mamba2", "h3", "s4", "rwkv4", "rwkv7", "lstm")
POSITIONS = ("rope", "alibi", "no-positions", "mamba", "rwkv7", "lstm")
KEYS = VALUES = 24
PAIRS = 8
SYMBOLS = 16
COPIED = 8
CLASSES = 8
LEVELS = 16


def associative_recall(rng: np.random.Generator, rows: int, time: int) -> Rows:
    """Pairs of key and value, then the keys again in another order: each must be answered by its value.

    Fu et al. 2022 (H3), section 3.1, with every key queried as in Arora et al. 2023 (arXiv:2312.04927).
    """
    pairs = time // 4
    keys = np.argsort(rng.random((rows, KEYS)), axis=1)[:, :pairs]
    values = rng.integers(KEYS, KEYS + VALUES, (rows, pairs))
    order = np.argsort(rng.random((rows, pairs)), axis=1)
    asked, answers = np.take_along_axis(keys, order, 1), np.take_along_axis(values, order, 1)
    tokens = np.concatenate([_interleave(keys, values), _interleave(asked, answers)], axis=1)
    targets = np.roll(tokens, -1, axis=1)
    counted = np.zeros_like(tokens)
    counted[:, 2 * pairs :: 2] = 1  # at each asked key
    return tokens, targets, counted


def induction(rng: np.random.Generator, rows: int, time: int) -> Rows:
    """A marker somewhere in a random row; at the marker's second coming, the last token, say what followed the first.

    Olsson et al. 2022 (arXiv:2209.11895); the setting of Gu & Dao 2023 (Mamba), section 4.1.2.
    """
    marker = SYMBOLS
    tokens = rng.integers(0, SYMBOLS, (rows, time))
    place = rng.integers(0, time - 2, rows)
    tokens[np.arange(rows), place] = marker
    tokens[:, -1] = marker
    targets = np.zeros_like(tokens)
    targets[:, -1] = tokens[np.arange(rows), place + 1]
    return tokens, targets, _last(tokens)


def copying(rng: np.random.Generator, rows: int, time: int) -> Rows:
    """Symbols, a long blank, then the symbols again in their order (Arjovsky et al. 2016, arXiv:1511.06464)."""
    blank, go = SYMBOLS, SYMBOLS + 1
    symbols = rng.integers(0, SYMBOLS, (rows, COPIED))
    tokens = np.full((rows, time), blank)
    tokens[:, :COPIED] = symbols
    tokens[:, -COPIED:] = go
    targets, counted = np.zeros_like(tokens), np.zeros_like(tokens)
    targets[:, -COPIED:] = symbols
    counted[:, -COPIED:] = 1
    return tokens, targets, counted


def classification(rng: np.random.Generator, rows: int, time: int) -> Rows:
    """A noisy wave as quantised samples; its frequency's class must be told at the end.

    Stands for the raw-signal classification of Gu et al. 2021 (S4), section 4.3: no few samples tell the class.
    """
    label = rng.integers(0, CLASSES, rows)
    frequency = (label + 1) * 0.02
    phase = rng.random(rows)[:, None]
    wave = np.sin(2 * np.pi * (frequency[:, None] * np.arange(time) + phase)) + rng.normal(0, 1, (rows, time))
    tokens = np.clip(((wave + 3) / 6 * LEVELS).astype(np.int64), 0, LEVELS - 1)
    targets = np.zeros_like(tokens)
    targets[:, -1] = label
    return tokens, targets, _last(tokens)


def extrapolation(rng: np.random.Generator, rows: int, time: int) -> Rows:
    """A language in which each token depends on the two before it; scored on the last quarter of the row.

    Press et al. 2021 (ALiBi, arXiv:2108.12409), section 2.2, with a language whose best prediction is known: the same
    rule at every position, so that whatever is lost beyond the training length is lost to positions alone.
    """
    rule = np.random.default_rng(0).integers(0, SYMBOLS, (SYMBOLS, SYMBOLS))
    tokens = rng.integers(0, SYMBOLS, (rows, time + 1))
    follows = rng.random((rows, time + 1)) < 0.9
    for t in range(2, time + 1):
        said = rule[tokens[:, t - 2], tokens[:, t - 1]]
        tokens[:, t] = np.where(follows[:, t], said, tokens[:, t])
    counted = np.zeros((rows, time), dtype=np.int64)
    counted[:, -time // 4 :] = follows[:, 1:][:, -time // 4 :]
    return tokens[:, :-1], tokens[:, 1:], counted


TASKS = {
    "associative_recall": Task(
        "answer a key by the value it was paired with",
        associative_recall, KEYS + VALUES, 4 * PAIRS, (4 * PAIRS,), 1 / VALUES, 4000, EVERY,
    ),
    "induction": Task(
        "say what followed the marker before",
        induction, SYMBOLS + 1, 64, (64, 128, 256, 512), 1 / SYMBOLS, 2000, EVERY,
    ),
    "copying": Task(
        "repeat symbols after a long blank", copying, SYMBOLS + 2, 128, (128,), 1 / SYMBOLS, 400, EVERY
    ),
    "classification": Task(
        "tell a noisy wave's frequency", classification, LEVELS, 256, (256,), 1 / CLASSES, 150, EVERY
    ),
    "extrapolation": Task(
        "predict beyond the trained length",
        extrapolation, SYMBOLS, 64, (64, 128, 256, 512), 1 / SYMBOLS, 800, POSITIONS,
    ),
}  # fmt: skip


def _interleave(a: Array, b: Array) -> Array:
    return np.stack([a, b], axis=2).reshape(len(a), -1)


def _last(tokens: Array) -> Array:
    counted = np.zeros_like(tokens)
    counted[:, -1] = 1
    return counted
