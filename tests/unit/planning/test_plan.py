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
from foundling.planning.stage_costs import BASELINE_SECONDS
from foundling.recipes.recipe import check_recipe, load_recipe

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


def test_a_life_that_fills_the_disk_is_refused_with_the_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recipe = load_recipe("tiny")
    plan = plan_life(recipe.name, resolve(recipe, store), store, SLOW)
    plan.free_disk = plan.needed_disk + 1
    plan.refuse_if_too_large()
    plan.free_disk = 1e6
    with pytest.raises(FoundlingError, match=r"'tiny' needs about \d+\.?\d* MB of disk, .* 1 MB are free"):
        plan.refuse_if_too_large()


def test_a_corpus_is_priced_by_the_size_of_its_files(tmp_path: Path) -> None:
    """A user's few pages are not the tens of megabytes that are installed, and their gigabytes are no less."""
    (tmp_path / "a.txt").write_text("word " * 40_000)
    (tmp_path / "b.txt").write_text("word " * 60_000)
    spec = {"corpus": {"stage": "corpus", "data": [str(tmp_path / "*.txt")]}}
    recipe, store = check_recipe({"name": "own", "stages": spec}, "own"), Store(tmp_path / "store")
    stage = plan_life("own", resolve(recipe, store), store, SLOW).stages[0]
    assert stage.makes == "500 KB of text" and stage.disk == pytest.approx(150_000)


def test_fine_tuning_is_priced_by_its_files_and_what_it_trains(tmp_path: Path) -> None:
    """A few examples are not a thousand, and an adapter leaves the base without gradients and optimizer state."""
    data, adapter = tmp_path / "pairs.jsonl", {"method": "lora"}
    data.write_text("x" * 34_000)
    base = {"stage": "pretrain", "inputs": {"tokens": "tokens"}, "preset": "foundling-12m", "steps": 10}
    tune = {"stage": "sft", "inputs": {"base": "base"}, "data": [str(data)], "epochs": 1}
    spec = {
        "corpus": {"stage": "corpus", "max_bytes": 1_000_000},
        "tokenizer": {"stage": "tokenizer", "inputs": {"corpus": "corpus"}, "vocab_size": 512},
        "tokens": {"stage": "tokenize", "inputs": {"corpus": "corpus", "tokenizer": "tokenizer"}},
        "base": base,
        "once": tune,
        "thrice": {**tune, "epochs": 3},
        "lora": {**tune, "adapter": adapter},
        "usual": {**tune, "data": ["expressions"]},
    }
    recipe, store = check_recipe({"name": "own", "stages": spec}, "own"), Store(tmp_path / "store")
    once, thrice, lora, usual = plan_life("own", resolve(recipe, store), store, SLOW).stages[-4:]
    assert thrice.seconds - once.seconds == pytest.approx(2 * (once.seconds - 4.0)), "4 s to start"
    assert lora.seconds < once.seconds < usual.seconds
    assert lora.memory < once.memory - 3 * 4 * 12e6 / 2 and lora.checkpoint < once.checkpoint


def test_facts_flow_along_the_recipe_and_not_down_its_page(tmp_path: Path) -> None:
    """Each stage is priced from its own inputs: the last model or corpus of the page may be another's."""
    spec = {
        "corpus": {"stage": "corpus", "max_bytes": 1_000_000},
        "tokenizer": {"stage": "tokenizer", "inputs": {"corpus": "corpus"}, "vocab_size": 512},
        "tokens": {"stage": "tokenize", "inputs": {"corpus": "corpus", "tokenizer": "tokenizer"}},
        "large": {"stage": "pretrain", "inputs": {"tokens": "tokens"}, "preset": "foundling-12m", "steps": 10},
        "small": {
            "stage": "distill",
            "inputs": {"teacher": "large", "tokens": "tokens"},
            "preset": "foundling-1m",
            "steps": 10,
        },
        "alone": {"stage": "pretrain", "inputs": {"tokens": "tokens"}, "preset": "foundling-1m", "steps": 10},
        "of-large": {"stage": "compress", "inputs": {"model": "large", "corpus": "corpus"}},
        "of-small": {"stage": "compress", "inputs": {"model": "small", "corpus": "corpus"}},
        "with-text": {"stage": "compress", "inputs": {"model": "large", "corpus": "corpus"}, "method": "gptq"},
    }
    store = Store(tmp_path)
    nodes = resolve(check_recipe({"name": "mine", "stages": spec}, "mine"), store)
    plan = {stage.name: stage for stage in plan_life("mine", nodes, store, SLOW).stages}
    assert plan["of-small"].disk < plan["of-large"].disk / 5
    assert plan["of-small"].seconds < plan["of-large"].seconds < plan["with-text"].seconds
    assert plan["small"].makes == plan["alone"].makes, "a student has the student's size"
    assert plan["small"].seconds > plan["alone"].seconds - BASELINE_SECONDS, "the teacher's predictions cost time too"
    assert plan["small"].memory > plan["alone"].memory
