"""Choosing what a recipe leaves open: `preset: auto` becomes a size and a number of steps that fit the budget.

Choices are made once and kept in the life's resolved recipe, so that a slow day does not change a key.
"""

from __future__ import annotations

from typing import Any

from foundling.core.artifacts import Store
from foundling.core.hardware import Rates
from foundling.models.presets import preset
from foundling.planning.step_time import step_seconds
from foundling.recipes.recipe import Recipe, StageSpec
from foundling.training.config import PretrainConfig

PRETRAIN_SHARE = 0.42  # of the life's budget; the rest is for curation, post-training, evaluation and compression
AUTO = "auto"
DEFAULT_BUDGET_S = 600.0
VOCAB_SIZE = 4096  # of the recipes that let us choose; it only enters the cost
MIN_STEPS, MAX_STEPS = 60, 20_000
# Sizes to choose from, with the fewest tokens at which each is better than the one before it.
LADDER = {
    "foundling-1m": 0,
    "foundling-2m": 1_500_000,
    "foundling-3m": 6_000_000,
    "foundling-6m": 16_000_000,
    "foundling-12m": 50_000_000,
    "foundling-16m": 100_000_000,
}


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
            chosen, steps = choose_size(budget, rates)
            choice = {"preset": chosen, "steps": steps}
        choices[name] = choice
        stages[name] = _with(spec, {**choice, **{k: v for k, v in spec.config.items() if v != AUTO}})
    return recipe.model_copy(update={"stages": stages}), choices


def choose_size(budget_s: float, rates: Rates) -> tuple[str, int]:
    """The largest size that sees enough tokens within the budget, and its steps of the default batch.

    Args:
        budget_s: seconds for the training steps.
        rates: what the machine can do.
    """
    defaults = PretrainConfig()
    per_step = defaults.batch_size * defaults.context
    smallest, *_ = LADDER
    chosen = (smallest, MIN_STEPS)
    for name, least in LADDER.items():
        steps = budget_s / step_seconds(preset(name, vocab_size=VOCAB_SIZE), defaults, rates)
        if steps * per_step < least:
            break
        chosen = (name, min(MAX_STEPS, max(MIN_STEPS, 10 * round(steps / 10))))
    return chosen


def _with(spec: StageSpec, config: dict[str, Any]) -> StageSpec:
    return spec.model_copy(update={"config": config})
