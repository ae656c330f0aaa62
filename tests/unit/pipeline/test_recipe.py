"""Recipes: mistakes are refused with the nearest valid key; overrides and `extends` reach exactly what they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundling.core.errors import FoundlingError
from foundling.recipes.recipe import as_yaml, check_recipe, load_recipe, parse_duration

TEXT = """
name: mine
seed: 3
budget: 2 minutes
stages:
  corpus: {stage: corpus, data: [a.txt]}
  tokenizer: {stage: tokenizer, inputs: {corpus: corpus}, vocab_size: 512}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def test_recipe_is_typed_and_survives_a_round_trip(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_file))
    assert recipe.budget == 120 and recipe.stages["tokenizer"].config == {"vocab_size": 512}
    (tmp_path / "again.yaml").write_text(as_yaml(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


def test_set_changes_one_field_of_one_stage(recipe_file: Path) -> None:
    recipe = load_recipe(str(recipe_file), ["tokenizer.vocab_size=1024", "seed=7"])
    assert recipe.stages["tokenizer"].config == {"vocab_size": 1024} and recipe.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokeniser.vocab_size=4", r"no stage 'tokeniser'.*Did you mean 'tokenizer'"),
        ("tokenizer.vocab_size", "NAME.field=value"),
        ("tokenizer.vocab_size=[1", "is not YAML"),
        ("=3", "NAME.field=value"),
        ("sead=7", r"unknown field 'sead'.*Did you mean 'seed'"),
    ],
)
def test_set_refuses_what_it_cannot_place(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(FoundlingError, match=message):
        load_recipe(str(recipe_file), [override])


def test_extends_merges_deeply_and_null_drops_a_stage(recipe_file: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine\nname: child\nstages:\n  corpus: {min_characters: 5}\n  tokenizer: null\n")
    recipe = load_recipe(str(child))
    assert list(recipe.stages) == ["corpus"]
    assert recipe.stages["corpus"].config == {"data": ["a.txt"], "min_characters": 5}


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text("extends: loop\nname: loop\nstages: {}\n")
    with pytest.raises(FoundlingError, match="extends itself"):
        load_recipe(str(tmp_path / "loop.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "is not a mapping"),
        ("name: x", "has no stages"),
        ("name: x\nstages: {a: 3}", "A stage is a mapping"),
        ("name: x\nstages: {a: {inputs: {}}}", "'stages.a.stage' is missing"),
        ("name: x y\nstages: {a: {stage: corpus}}", "field 'name'"),
        ("a: b: c", r"is not YAML at line 1"),
        ("name: x\nbudget: soon\nstages: {a: {stage: corpus}}", "'soon' is not a duration"),
    ],
)
def test_broken_recipes_are_refused_with_their_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(FoundlingError, match=message):
        load_recipe(str(path))


def test_a_missing_recipe_names_the_nearest_one() -> None:
    with pytest.raises(FoundlingError, match=r"no recipe 'quikstart'.*Did you mean 'quickstart'"):
        load_recipe("quikstart")


def test_a_binary_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(FoundlingError, match="not UTF-8"):
        load_recipe(str(tmp_path / "b.yaml"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10 minutes", 600), ("1.5h", 5400), ("2 days", 172800)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_check_recipe_keeps_stage_fields_apart() -> None:
    recipe = check_recipe({"name": "n", "stages": {"a": {"stage": "corpus", "data": ["x"]}}}, "n")
    assert recipe.stages["a"].config == {"data": ["x"]}
