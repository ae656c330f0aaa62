"""The graph of a life: order, keys that change only downstream, and refusals before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundling import pipeline
from foundling.core.artifacts import Artifact, Store
from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError
from foundling.core.lives import Life
from foundling.core.stages import Inputs, Node, Port, Stage
from foundling.recipes.recipe import Recipe, check_recipe


class TextConfig(Config):
    text: str = option("a", "the text")
    workers: int = option(1, "processes", affects_result=False)
    seed: int = option(0, "seed")


def make_text(config: TextConfig, inputs: Inputs, draft: Any) -> None:
    """A stage for these tests: its own text after its input's."""
    before = inputs.get("base")
    start = before.file("text.txt").read_text() if before else ""
    draft.file("text.txt").write_text(start + config.text)
    draft.metrics["length"] = len(start + config.text)


HERE = "tests.unit.pipeline.test_pipeline"


@pytest.fixture(autouse=True)
def only_text_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"base": Port(("model",), "the text before", required=False)}
    text = Stage("text", "model", 1, "Writes text.", f"{HERE}:TextConfig", f"{HERE}:make_text", base)
    monkeypatch.setattr(pipeline, "STAGES", {"text": text})


def recipe(**stages: dict[str, Any]) -> Recipe:
    return check_recipe({"name": "life", "seed": 5, "stages": stages}, "life")


CHAIN = {
    "last": {"stage": "text", "inputs": {"base": "middle"}, "text": "c"},
    "first": {"stage": "text", "text": "a"},
    "middle": {"stage": "text", "inputs": {"base": "first"}, "text": "b"},
    "other": {"stage": "text", "inputs": {"base": "first"}, "text": "x"},
}


def run(recipe: Recipe, store: Store) -> tuple[dict[str, Artifact], set[str]]:
    made: dict[str, Artifact] = {}
    reused: set[str] = set()

    def done(node: Node, artifact: Artifact, again: bool) -> None:
        made[node.name] = artifact
        reused.update({node.name} if again else set())

    pipeline.run_life(recipe, store, Life("life"), done)
    return made, reused


def test_inputs_come_first_whatever_the_order_of_the_recipe(tmp_path: Path) -> None:
    made, reused = run(recipe(**CHAIN), Store(tmp_path))
    assert list(made) == ["first", "middle", "last", "other"] and not reused
    assert made["last"].file("text.txt").read_text() == "abc"


def test_a_second_run_makes_nothing(tmp_path: Path) -> None:
    first, _ = run(recipe(**CHAIN), Store(tmp_path))
    second, reused = run(recipe(**CHAIN), Store(tmp_path))
    assert reused == set(CHAIN)
    assert {n: a.key for n, a in first.items()} == {n: a.key for n, a in second.items()}


def test_a_changed_field_remakes_only_what_is_downstream(tmp_path: Path) -> None:
    run(recipe(**CHAIN), Store(tmp_path))
    changed = {**CHAIN, "middle": {**CHAIN["middle"], "text": "B"}}
    made, reused = run(recipe(**changed), Store(tmp_path))
    assert reused == {"first", "other"}
    assert made["last"].file("text.txt").read_text() == "aBc"


def test_a_field_that_cannot_change_the_result_changes_no_key(tmp_path: Path) -> None:
    run(recipe(**CHAIN), Store(tmp_path))
    changed = {name: {**fields, "workers": 8} for name, fields in CHAIN.items()}
    assert run(recipe(**changed), Store(tmp_path))[1] == set(CHAIN)


def test_the_recipes_seed_is_every_stages_unless_it_sets_its_own(tmp_path: Path) -> None:
    nodes = pipeline.resolve(recipe(a={"stage": "text"}, b={"stage": "text", "seed": 9}), Store(tmp_path))
    assert [node.config.model_dump()["seed"] for node in nodes] == [5, 9]


def test_an_input_may_be_an_artifact_of_another_life(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = run(recipe(**CHAIN), store)
    other = check_recipe(
        {"name": "other", "stages": {"more": {"stage": "text", "inputs": {"base": made["last"].key}, "text": "!"}}},
        "other",
    )
    assert run(other, store)[0]["more"].file("text.txt").read_text() == "abc!"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": {"stage": "txt"}}, r"no stage 'txt'.*Did you mean 'text'"),
        ({"a": {"stage": "text", "texd": "x"}}, r"unknown field 'texd'.*Did you mean 'text'"),
        (
            {"a": {"stage": "text", "inputs": {"bass": "b"}}, "b": {"stage": "text"}},
            r"no input 'bass'.*Did you mean 'base'",
        ),
        (
            {"a": {"stage": "text", "inputs": {"base": "b"}}, "b": {"stage": "text", "inputs": {"base": "a"}}},
            "a -> b -> a",
        ),
        ({"a": {"stage": "text", "inputs": {"base": "nowhere"}}}, "nowhere"),
    ],
)
def test_a_wrong_graph_is_refused_before_anything_runs(tmp_path: Path, stages: dict[str, Any], message: str) -> None:
    with pytest.raises(FoundlingError, match=message):
        run(recipe(**stages), Store(tmp_path))
    assert not list(tmp_path.glob("artifacts/*/*"))
