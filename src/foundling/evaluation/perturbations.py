"""Changes that should not matter: case, spacing, typos, other words, the order of options and of worked examples."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from foundling.evaluation.task import Evaluable, Item
from foundling.evaluation.task_file import TaskFile
from foundling.evaluation.tasks.choices import Choices, Options
from foundling.evaluation.tasks.generation import Generation
from foundling.evaluation.templates import render
from foundling.evaluation.variants import Change, Variants, of_prompt


def lower_case(text: str, rng: np.random.Generator) -> str:
    """All letters small."""
    return text.lower()


def extra_space(text: str, rng: np.random.Generator) -> str:
    """One space in ten doubled, at least one."""
    words = text.split(" ")
    if len(words) < 2:
        return text
    doubled = rng.random(len(words) - 1) < 0.1
    doubled[int(rng.integers(len(doubled)))] = True
    return words[0] + "".join(("  " if twice else " ") + word for twice, word in zip(doubled, words[1:], strict=True))


def typos(text: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters swapped in one word of ten, at least one; words of four letters and more."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:
        return text
    for index in rng.choice(long, size=max(1, len(long) // 10), replace=False):
        word, at = words[index], int(rng.integers(1, len(words[index]) - 2))
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


# Wordings that mean the same, applied where they stand as whole words.
_REWORDED = (
    (r"\bdo not\b", "don't"), (r"\bdoes not\b", "doesn't"), (r"\bis not\b", "isn't"), (r"\bcannot\b", "can't"),
    (r"\bcan't\b", "cannot"), (r"\bdon't\b", "do not"), (r"\bdoesn't\b", "does not"), (r"\bisn't\b", "is not"),
    (r"\bHow many\b", "What number of"), (r"\bhow many\b", "what number of"),
    (r"\bWhich of the following\b", "Which of these"),
    (r"\bWhich\b", "What"), (r"\bwhich one\b", "what one"), (r"\bbig\b", "large"), (r"\blarge\b", "big"),
    (r"\bbuys\b", "purchases"), (r"\bbegin(s?)\b", r"start\1"), (r"\bmost likely\b", "most probably"),
    (r"\bin order to\b", "to"), (r"\bbecause\b", "since"), (r"\bapproximately\b", "about"), (r"\balso\b", "too"),
)  # fmt: skip


def paraphrase(text: str, rng: np.random.Generator) -> str:
    """The first wording of the table that the text holds, replaced throughout; else a polite word before the text.

    A crude paraphrase that is sure to keep the meaning. A task file's `paraphrase` gives better ones.
    """
    for pattern, other in _REWORDED:
        changed = re.sub(pattern, other, text)
        if changed != text:
            return changed
    return "Please consider this carefully. " + text


CHANGES = {"lower case": lower_case, "extra space": extra_space, "typos": typos, "paraphrase": paraphrase}


def perturbed(task: Choices | Generation, seed: int) -> Evaluable:
    """The task under all changes that apply to it, with how often the answer stays the same."""
    spec = task.spec
    changes: dict[str, Change] = {}
    if spec.contexts is None:  # there the question is in the options
        changes |= {name: of_prompt(change) for name, change in CHANGES.items()}
        if spec.paraphrase is not None:
            changes["paraphrase"] = _given_paraphrase(spec, spec.paraphrase)
    if isinstance(task, Choices):
        changes["option order"] = _turn_options
    if spec.shots.count > 1:
        changes["shot order"] = _turn_shots
    first = task.task.metrics[0].name
    return Variants(task, "perturbed", changes, (first,), compare_picks=True, seed=seed)


def _given_paraphrase(spec: TaskFile, template: str) -> Change:
    def change(item: Item, rng: np.random.Generator) -> Item:
        question, *rest = item.data
        return replace(item, data=(replace(question, prompt=render(template, question.row)), *rest))

    return change


def _turn_options(item: Item, rng: np.random.Generator) -> Item:
    question, options = item.data
    turned = Options(options.texts[::-1], tuple(len(options.texts) - 1 - i for i in options.right))
    return replace(item, data=(question, turned))


def _turn_shots(item: Item, rng: np.random.Generator) -> Item:
    question, *rest = item.data
    return replace(item, data=(replace(question, shots=question.shots[::-1]), *rest))
