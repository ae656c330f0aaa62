"""Items of the expression task: an instruction, a reference answer and hidden inputs, a pure function of the seed.

Splits: `train`; `compositions`, whose combinations of operations never occur in training, on any source and with any
constant; `phrasings`, whose combinations of words never do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from foundling.core import sandbox_worker
from foundling.core.rng import numpy_rng, seed_for
from foundling.evaluation.tasks.expressions.grammar import draws

Split = Literal["train", "compositions", "phrasings"]
VERSION = 2  # part of the key of whatever is made from the items: raise it when the same seed gives others
HIDDEN_INPUTS = 6
TRIED_INPUTS = 10
FEWEST_VALUES = 3  # different values that a reference must have on the hidden inputs: else a constant would pass
_WORDS = (
    *("apple", "Bob", "cat", "level", "Dot", "noon", "east", "Fig", "orange", "tin", "radar", "Gate", "stone", "NASA"),
    *("list", "river", "sun", "Tree", "otter", "ab", "eye", "Anna", "CPU", "lint", "door", "seal", "Ink", "noodle"),
)


@dataclass(frozen=True)
class Item:
    """An instruction, a reference answer, and the hidden inputs on which answers must equal it."""

    id: str
    instruction: str
    reference: str
    inputs: tuple[dict[str, Any], ...]
    split: Split


def generate(split: Split, n: int, seed: int = 0) -> list[Item]:
    """`n` different items of a split; a pure function of its arguments.

    Raises:
        ValueError: the split has fewer than `n` different instructions.
    """
    items: list[Item] = []
    for drawn in islice(draws(split, seed), 4 * n + 100):
        inputs = _hidden_inputs(drawn.reference, drawn.source.names, seed_for(drawn.instruction))
        if inputs:
            name = f"{split}-{seed_for(drawn.instruction):016x}"
            items.append(Item(name, drawn.instruction, drawn.reference, inputs, split))
        if len(items) == n:
            return items
    raise ValueError(f"the split {split!r} has only about {len(items)} different instructions")


def messages(item: Item, answer: str | None = None) -> list[dict[str, str]]:
    """The item as a chat: the instruction and, if given, an answer."""
    chat = [{"role": "user", "content": item.instruction}]
    return chat if answer is None else [*chat, {"role": "assistant", "content": answer}]


def held_out_prompts() -> list[str]:
    """Instructions that no training text may hold: those of the two held-out splits that evaluation draws."""
    return [item.instruction for split in ("compositions", "phrasings") for item in generate(split, 500)]


def _hidden_inputs(reference: str, names: tuple[str, ...], seed: int) -> tuple[dict[str, Any], ...]:
    """Inputs on which the reference has a value, and not always the same; none if there are too few."""
    code = sandbox_worker.compile_expression(reference)
    rng = numpy_rng("inputs", seed)
    found: list[dict[str, Any]] = []
    values: set[str] = set()
    for _ in range(TRIED_INPUTS):
        candidate = {name: _INPUTS[name](rng) for name in names}
        try:
            value = sandbox_worker.evaluate(code, candidate)
        except (ValueError, IndexError):  # the largest of nothing
            continue
        found.append(candidate)
        values.add(repr(value))
        if len(found) == HIDDEN_INPUTS:
            return tuple(found) if len(values) >= FEWEST_VALUES else ()
    return ()


def _numbers(rng: np.random.Generator) -> list[int]:
    scale = 60 if rng.random() < 0.5 else 12
    return [int(v) for v in rng.integers(-scale // 2, scale, size=int(rng.integers(8, 15)))]


def _words(rng: np.random.Generator) -> list[str]:
    return [_WORDS[i] for i in rng.integers(len(_WORDS), size=int(rng.integers(7, 13)))]


def _text(rng: np.random.Generator) -> str:
    text = " ".join(_words(rng)[:8])
    return f"{text} {int(rng.integers(100))}" if rng.random() < 0.7 else text


def _dict(rng: np.random.Generator) -> dict[str, int]:
    return dict(zip(_words(rng), _numbers(rng), strict=False))


_INPUTS = {
    "xs": _numbers,
    "words": _words,
    "s": _text,
    "n": lambda rng: int(rng.integers(12, 60)),
    "d": _dict,
}
