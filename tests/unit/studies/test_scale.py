"""`scale`: the ladder's recipe, the fit to artifacts, and the check on the model that was held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundling.cli.scale import ladder
from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError
from foundling.core.stages import run_stage
from foundling.pipeline import STAGES, resolve
from foundling.planning.scaling_law import Law, law_named
from foundling.studies.config import ScaleConfig
from foundling.training.pretrain import LOG

SHAPE = {"context": 256, "batch_size": 8, "vocab_size": 1024}
SIZES = [f"foundling-{n}k" for n in (25, 50, 100, 147, 220)]
TRUE = Law(1.1, 40.0, 300.0, 0.35, 0.4)


def recipe(**changes: Any) -> Any:
    given = {"data": None, "sizes": SIZES, "lengths": {"tokens": ["500K", "1M"]}, "held_out": "foundling-1m"}
    given |= {"shape": SHAPE, "max_bytes": 1e6, "seed": 0, "name": "scale"} | changes
    return ladder(**given)


def trained(store: Store, name: str, parameters: float, tokens: float) -> Artifact:
    """A model artifact as `pretrain` leaves it, with the loss of a known law."""
    with store.draft("model", "pretrain", 1, {"name": name}, {}) as draft:
        curve = [
            {"kind": "step", "step": s, "loss": TRUE.loss(parameters, tokens * s / 100)} for s in range(10, 101, 10)
        ]
        (draft.path / LOG).write_text("".join(json.dumps(line) + "\n" for line in curve))
        draft.metrics |= {"parameters": parameters, "tokens": tokens, "steps": 100}
        draft.metrics |= {"validation_bits_per_byte": TRUE.loss(parameters, tokens)}
    found = store.find(draft.key)
    assert found is not None
    return found


def test_the_ladder_reuses_one_corpus_and_shares_keys_with_a_longer_one(tmp_path: Path) -> None:
    """A second ladder must train only what the first did not: same run, same key."""
    store = Store(str(tmp_path))
    short = {node.name: node.key for node in resolve(recipe(), store)}
    long = {node.name: node.key for node in resolve(recipe(lengths={"tokens": ["500K", "1M", "4M"]}), store)}
    runs = [name for name in short if name.startswith("foundling")]
    assert len(runs) == 5 * 2 + 1 and "foundling-1m-held-out" in runs
    assert all(short[name] == long[name] for name in runs if not name.endswith("held-out"))
    assert short["scale"] != long["scale"]


def test_equal_compute_gives_small_models_more_text() -> None:
    """`--budgets` is approach 2's design: 6ND is the same for every size."""
    stages = recipe(lengths={"budgets": ["1e12"]}, held_out=None).stages
    steps = [spec.config["steps"] for spec in stages.values() if spec.stage == "pretrain"]
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 5


def test_a_known_law_is_found_and_the_held_out_model_predicted(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    grid = [(n * 1e4, d * 1e5) for n in (6, 10, 16, 21, 26) for d in (5, 10, 20)]
    models = {f"m{i}": trained(store, f"m{i}", n, d) for i, (n, d) in enumerate(grid)}
    models["large"] = trained(store, "large", 1.1e6, 2e6)
    config = ScaleConfig(held_out=("large",), bootstraps=40)
    report, _ = run_stage(store, STAGES["scale"], config, models)
    results = json.loads((report.path / "results.json").read_text())
    (check,) = results["held_out"]
    assert check["times_larger"] == pytest.approx(1.1e6 / 2.6e5)
    assert abs(check["error"]) < 0.01 and report.metrics["alpha"] == pytest.approx(TRUE.alpha, rel=0.05)
    assert "missing" in results["exponents"]["approach 2, parabolas at equal compute"], "this grid has no equal budgets"
    assert results["exponents"]["approach 1, envelope of the training curves"]["a"] > 0
    assert "| large | 4.23 |" in (report.path / "report.md").read_text()
    assert (report.path / "scaling.png").stat().st_size > 10_000
    assert law_named(str(report.path / "law.json")).interval(lambda law: law.E)[0] is not None


def test_mistakes_are_named(tmp_path: Path) -> None:
    for changes, said in (
        ({"sizes": SIZES[:4]}, "4 sizes is too short"),
        ({"sizes": [*SIZES[:4], "foundling-3b"]}, "no preset named 'foundling-3b'"),
        ({"lengths": {"tokens": ["1M"], "budgets": ["1e12"]}}, "--tokens and --budgets are given"),
        ({"lengths": {"tokens": ["lots"]}}, "'lots' is not an amount"),
        ({"lengths": {"tokens": ["-1M"]}}, "'-1M' is not an amount"),
    ):
        with pytest.raises(FoundlingError, match=said):
            recipe(**changes)
    store = Store(str(tmp_path))
    model = trained(store, "a", 1e6, 1e6)
    with pytest.raises(FoundlingError, match="held-out model 'b' is not an input"):
        run_stage(store, STAGES["scale"], ScaleConfig(held_out=("b",)), {"a": model})
    with pytest.raises(FoundlingError, match="no metric 'los'"):
        run_stage(store, STAGES["scale"], ScaleConfig(loss="los"), {"a": model})
