"""Draws instructions and the expressions that answer them, and decides which split each may appear in.

An instruction is a composition (which filter, map and reduction) said in a phrasing (which form, which words). Both
are sorted into train and held-out by a hash of their names, so that no held-out composition, on any source and with
any constant, and no held-out phrasing occurs in training. Every single operation does, and every word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from foundling.core.rng import numpy_rng, seed_for
from foundling.evaluation.tasks.expressions.operations import (
    FILTERS,
    MAPS,
    REDUCTIONS,
    SEPARATOR_WORDS,
    SEPARATORS,
    SOURCES,
    Filter,
    Map,
    Reduction,
    Source,
)

SPLITS = ("train", "compositions", "phrasings")
HELD_OUT = 5  # one in so many compositions and phrasings is held out
LEADS = ("", "Give ", "Return ", "Compute ", "Find ", "Write an expression for ")

T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """One instruction, its answer, and the names that decide its split."""

    instruction: str
    reference: str
    source: Source
    composition: str
    phrasing: str

    @property
    def split(self) -> str | None:
        """Where it belongs; None if both composition and phrasing are held out."""
        new_composition, new_phrasing = _held_out(self.composition), _held_out(self.phrasing)
        if new_composition and new_phrasing:
            return None
        return "compositions" if new_composition else "phrasings" if new_phrasing else "train"


@dataclass(frozen=True)
class _Plan:
    source: Source
    filter: Filter | None
    map: Map | None
    reduction: Reduction | None
    constants: tuple[str, str, str]


def draws(split: str, seed: int) -> Iterator[Drawn]:
    """An endless sequence of instructions of a split, without repetition of an instruction."""
    assert split in SPLITS
    rng, seen = numpy_rng("expressions", split, seed), set[str]()
    while True:
        drawn = _phrase(_plan(rng), rng)
        if drawn.split == split and drawn.instruction not in seen:
            seen.add(drawn.instruction)
            yield drawn


def _held_out(name: str) -> bool:
    return "+" in name and seed_for("held out", name) % HELD_OUT == 0


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _constant(rng: np.random.Generator, operation: Filter | Map | Reduction | None) -> str:
    if operation is None or not operation.constants:
        return ""
    chosen = _pick(rng, operation.constants)
    return f"'{chosen}'" if chosen.isalpha() else chosen


def _plan(rng: np.random.Generator) -> _Plan:
    source = _pick(rng, SOURCES)
    while True:
        filter_ = _pick(rng, FILTERS[source.kind]) if rng.random() < 0.7 else None
        map_ = _pick(rng, MAPS[source.kind]) if rng.random() < 0.6 else None
        kind = map_.makes if map_ else source.kind
        reduction = _pick(rng, REDUCTIONS[kind]) if rng.random() < 0.65 else None
        if filter_ or map_ or reduction:
            break
    constants = (_constant(rng, filter_), _constant(rng, map_), _constant(rng, reduction))
    return _Plan(source, filter_, map_, reduction, constants)


# --- code ---------------------------------------------------------------------------------------------------------


def _code(plan: _Plan) -> str:
    """The reference expression."""
    x, (kf, km, kr) = plan.source.element, plan.constants
    value = plan.map.code.format(x=x, k=km) if plan.map else x
    stream = f"{value} for {x} in {plan.source.code}"
    if plan.filter:
        stream += f" if {plan.filter.code.format(x=x, k=kf)}"
    plain = plan.map is None and plan.filter is None
    if plan.reduction is None:
        return f"[{stream}]"
    if plain:
        whole = plan.source.code
        if "{X}[" in plan.reduction.code and whole not in ("xs", "words", "s", "range(n)"):
            whole = f"list({whole})" if not whole.endswith("split()") else whole
        if whole == "range(n)" and plan.reduction.code.startswith("{X}["):
            whole = "list(range(n))"
        return plan.reduction.code.format(X=whole, k=kr)
    return plan.reduction.code.format(X=stream if plan.reduction.streams else f"[{stream}]", k=kr)


# --- words --------------------------------------------------------------------------------------------------------


def _phrase(plan: _Plan, rng: np.random.Generator) -> Drawn:
    steps = rng.random() < 0.25 and plan.reduction is not None and (plan.map or plan.filter)
    words, form = (_steps if steps else _noun_phrase)(plan, rng)
    operations = [op.name for op in (plan.filter, plan.map, plan.reduction) if op]
    composition = f"{plan.source.kind}: " + " + ".join(operations)
    return Drawn(words, _code(plan), plan.source, composition, form)


def _noun_phrase(plan: _Plan, rng: np.random.Generator) -> tuple[str, str]:
    """ "Give the sum of the squares of the even numbers in xs" and the names of the choices made."""
    lead = int(rng.integers(len(LEADS)))
    words, choices = _elements(plan, rng)
    for operation, constant in ((plan.map, plan.constants[1]), (plan.reduction, plan.constants[2])):
        if operation:
            number = int(rng.integers(len(operation.phrases)))
            words = _join(operation.phrases[number], words, constant)
            choices.append(f"{operation.name}/{number}")
    return LEADS[lead] + words, f"lead {lead} + " + " + ".join(choices)


def _elements(plan: _Plan, rng: np.random.Generator) -> tuple[str, list[str]]:
    """ "the even numbers in xs"."""
    number = int(rng.integers(len(plan.source.nouns)))
    noun, place = plan.source.nouns[number]
    choices = [f"{plan.source.name}/{number}"]
    if plan.filter is None:
        return f"the {noun} {place}", choices
    forms = [f"the {adjective} {noun} {place}" for adjective in plan.filter.adjectives]
    forms += [f"the {noun} {place} {clause}" for clause in plan.filter.clauses]
    form = int(rng.integers(len(forms)))
    choices.append(f"{plan.filter.name}/{form}")
    return forms[form].replace("{k}", plan.constants[0]), choices


def _join(phrase: str, words: str, constant: str) -> str:
    bare = words.removeprefix("the ")
    constant = SEPARATOR_WORDS[constant] if constant in SEPARATORS else constant
    if phrase.startswith(("the number of", "how many", "the distinct")):
        words = bare
    return phrase.replace("{X}", words).replace("{k}", constant)


def _steps(plan: _Plan, rng: np.random.Generator) -> tuple[str, str]:
    """ "Take the even numbers in xs, square each, then add them up" and the names of the choices made."""
    words, choices = _elements(plan, rng)
    parts = [f"Take {words}"]
    assert plan.reduction is not None
    for operation, constant in ((plan.map, plan.constants[1]), (plan.reduction, plan.constants[2])):
        if operation:
            constant = SEPARATOR_WORDS.get(constant, constant)
            then = "then " if operation is plan.reduction else ""
            parts.append(then + operation.verb.replace("{k}", constant))
            choices.append(operation.name)
    return ", ".join(parts), "steps + " + " + ".join(choices)
