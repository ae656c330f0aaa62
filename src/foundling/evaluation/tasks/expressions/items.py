"""Items of the expression task: seeded compositions of the grammar, split so that what is held out was never seen.

Splits: `train`; `compositions`, whose triples (filter, map, aggregate) never occur in training though each part does;
`phrasings`, training's triples with one part (an operation or the frame) in words that training never used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from foundling.core.rng import numpy_rng, seed_for
from foundling.evaluation.tasks.expressions.grammar import FRAMES_SEEN, FRAMES_UNSEEN, KINDS, VARIABLES, Part

Split = Literal["train", "compositions", "phrasings"]
HELD_OUT_SHARE = 5  # one triple in five is held out
HIDDEN_INPUTS = 6
VOCABULARY = (
    *("apple", "table", "stone", "river", "cat", "bird", "yellow", "sand", "tree", "moon", "star", "coffee", "idea"),
    *("bread", "silent", "order", "letter", "music", "dog", "island", "orange", "red", "time", "sky", "candle", "rust"),
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
    items: dict[str, Item] = {}
    for attempt in range(60 * n + 1000):
        item = _draw(split, numpy_rng("expressions", split, seed, attempt))
        if item is not None:
            items.setdefault(item.instruction, item)
        if len(items) == n:
            return list(items.values())
    raise ValueError(f"the split {split!r} has only about {len(items)} different instructions")


def messages(item: Item, answer: str | None = None) -> list[dict[str, str]]:
    """The item as a chat: the instruction and, if given, an answer."""
    chat = [{"role": "user", "content": item.instruction}]
    return chat if answer is None else [*chat, {"role": "assistant", "content": answer}]


def held_out_prompts() -> list[str]:
    """Instructions that no training text may hold: those of the two held-out splits that evaluation draws."""
    return [item.instruction for split in ("compositions", "phrasings") for item in generate(split, 500)]


def is_held_out(kind: str, parts: tuple[Part, Part, Part]) -> bool:
    """Whether a triple belongs to the held-out compositions. Single operations are always for training."""
    plain = sum(part.name in ("all", "same", "list") for part in parts)
    return plain < 2 and seed_for("composition", kind, *(part.name for part in parts)) % HELD_OUT_SHARE == 0


def _draw(split: Split, rng: np.random.Generator) -> Item | None:
    kind = "xs" if rng.random() < 0.6 else "words"
    parts = tuple(_pick(options, rng) for options in KINDS[kind])
    assert len(parts) == 3
    if is_held_out(kind, parts) != (split == "compositions") or not _makes_sense(parts):
        return None
    constants = [_pick(part.constants, rng) if part.constants else "" for part in parts]
    reference = _code(kind, parts, constants)
    instruction = _words(parts, constants, split == "phrasings", rng)
    inputs = tuple(_inputs(kind, reference, rng))
    if len(inputs) < HIDDEN_INPUTS:
        return None
    name = f"{split}-{seed_for(instruction):016x}"
    return Item(name, instruction, reference, inputs, split)


def _makes_sense(parts: tuple[Part, ...]) -> bool:
    """Joining needs strings; the length of a word is none."""
    return not (parts[2].name == "joined" and parts[1].name == "length")


def _code(kind: str, parts: tuple[Part, ...], constants: list[Any]) -> str:
    keep, change, combine = parts
    x = VARIABLES[kind]
    value = change.code.format(x=x, k=constants[1])
    condition = f" if {keep.code.format(x=x, k=constants[0])}" if keep.code else ""
    plain = value == x and not condition
    loop = f"{value} for {x} in {kind}{condition}"
    if combine.name in ("list", "count"):
        return {"list": kind, "count": f"len({kind})"}[combine.name] if plain else combine.code.format(i=loop)
    bare = kind if plain else loop
    return combine.code.format(i=bare, j=kind if plain else f"[{loop}]", k=constants[2])


def _words(parts: tuple[Part, ...], constants: list[Any], unseen: bool, rng: np.random.Generator) -> str:
    """The instruction. With `unseen`, exactly one part of it (an operation or the frame) is in words held out."""
    rewordable = [i for i, part in enumerate(parts) if part.unseen != part.seen] + [len(parts)]
    new = _pick(tuple(rewordable), rng) if unseen else None
    phrase = ""
    for index, (part, constant) in enumerate(zip(parts, constants, strict=True)):
        phrase = _pick(part.unseen if index == new else part.seen, rng).format(it=phrase, k=constant)
    return str(_pick(FRAMES_UNSEEN if new == len(parts) else FRAMES_SEEN, rng).format(it=phrase))


def _inputs(kind: str, reference: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Hidden inputs on which the reference does not fail and does not always give the same."""
    found: list[dict[str, Any]] = []
    for _ in range(4 * HIDDEN_INPUTS):
        values: list[Any]
        if kind == "xs":
            values = [int(v) for v in rng.integers(-12, 25, size=int(rng.integers(5, 10)))]
        else:
            values = [str(w) for w in rng.choice(VOCABULARY, size=int(rng.integers(4, 9)))]
        candidate = {kind: values}
        if not reference.startswith(("max(", "min(")) or _nonempty(reference, candidate):
            found.append(candidate)
        if len(found) == HIDDEN_INPUTS:
            break
    return found


def _nonempty(reference: str, values: dict[str, Any]) -> bool:
    """Whether max or min of the reference has something to choose from."""
    inner = reference[len("max(") : -1]
    if inner in values:
        return True
    return bool(eval(f"[{inner}]", {}, dict(values)))  # noqa: S307 - our own grammar's code, not a model's answer


def _pick(options: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]
