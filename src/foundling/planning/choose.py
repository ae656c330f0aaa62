"""Choosing what a recipe leaves open: `preset: auto` becomes a size and a number of steps that fit the budget.

Choices are made once and kept in the life's resolved recipe, so that a slow day does not change a key.
"""

from __future__ import annotations

from typing import Any

from foundling.core.artifacts import Store
from foundling.core.hardware import Rates
from foundling.recipes.recipe import Recipe, StageSpec
from foundling.training.ladder import choose_size

PRETRAIN_SHARE = 0.36  # of the life's budget; the rest is for curation, post-training, evaluation and compression
AUTO = "auto"
DEFAULT_BUDGET_S = 600.0


def choose_sizes(
    recipe: Recipe, store: Store, earlier: dict[str, dict[str, Any]], rates: Rates | None = None
) -> tuple[Recipe, dict[str, dict[str, Any]]]:
    """The recipe with every `preset: auto` replaced, and the choices made, by stage.

    Args:
        earlier: choices of an earlier run of this life; they are kept.
        rates: this machine's measured rates; None measures them when something has to be chosen.
    """
    from foundling.core import hardware

    stages, choices = dict(recipe.stages), {}
    for name, spec in recipe.stages.items():
        if spec.stage != "pretrain" or spec.config.get("preset", AUTO) != AUTO or "base" in spec.inputs:
            continue
        choice = earlier.get(name)
        if choice is None:
            rates = rates or hardware.remembered(store.root / "machine.json")
            budget = PRETRAIN_SHARE * (recipe.budget or DEFAULT_BUDGET_S)
            preset, steps = choose_size(budget, rates)
            choice = {"preset": preset, "steps": steps}
        choices[name] = choice
        stages[name] = _with(spec, {**choice, **{k: v for k, v in spec.config.items() if v != AUTO}})
    return recipe.model_copy(update={"stages": stages}), choices


def _with(spec: StageSpec, config: dict[str, Any]) -> StageSpec:
    return spec.model_copy(update={"config": config})
