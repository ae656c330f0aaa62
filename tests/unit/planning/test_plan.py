"""Plans: choices are made once and kept; every stage is priced; what cannot fit is refused with the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.hardware import Rates
from foundling.pipeline import resolve
from foundling.planning.choose import choose_sizes
from foundling.planning.estimate import plan_life
from foundling.recipes.recipe import load_recipe

SLOW = Rates(bandwidth=20e9, fp32=100e9, bf16=200e9, threads=2, device="cpu")
FAST = Rates(bandwidth=40e9, fp32=200e9, bf16=1000e9, threads=2, device="cpu")


def test_a_faster_machine_is_given_more_to_do(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    slow, fast = (choose_sizes(recipe, Store(tmp_path), {}, rates)[1]["base"] for rates in (SLOW, FAST))
    assert (slow["preset"], slow["steps"]) != (fast["preset"], fast["steps"])


def test_an_earlier_choice_is_kept_so_that_keys_do_not_change_with_the_weather(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    earlier = choose_sizes(recipe, Store(tmp_path), {}, SLOW)[1]
    assert choose_sizes(recipe, Store(tmp_path), earlier, FAST)[1] == earlier


def test_what_the_user_sets_is_not_chosen(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", ["base.preset=foundling-1m", "base.steps=7"])
    chosen, choices = choose_sizes(recipe, Store(tmp_path), {}, SLOW)
    assert choices == {} and chosen.stages["base"].config["steps"] == 7
    steps_only = choose_sizes(load_recipe("quickstart", ["base.steps=7"]), Store(tmp_path), {}, SLOW)[0]
    assert steps_only.stages["base"].config["steps"] == 7


def test_every_stage_has_a_price(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recipe = choose_sizes(load_recipe("quickstart"), store, {}, SLOW)[0]
    plan = plan_life(recipe.name, resolve(recipe, store), store, SLOW)
    assert [stage.name for stage in plan.stages] == list(recipe.stages)
    assert all(stage.seconds > 0 and stage.memory > 0 and not stage.reused for stage in plan.stages)
    assert plan.seconds == pytest.approx(sum(stage.seconds for stage in plan.stages))
    assert plan.memory < 3e9, "the quickstart promises to stay under 3 GB"


def test_a_life_that_cannot_fit_is_refused_with_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    recipe = load_recipe("quickstart", ["base.preset=foundling-16m", "base.steps=10", "base.batch_size=1000000"])
    plan = plan_life(recipe.name, resolve(recipe, store), store, SLOW)
    with pytest.raises(FoundlingError, match=r"stage 'base' needs about .* This machine has"):
        plan.refuse_if_too_large()
