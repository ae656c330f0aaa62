"""The quality classifier, the perplexity filter, and how often documents are used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.corpus.test_corpus_stage import STAGE, make, texts

from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.stages import run_stage
from foundling.corpus.baselines import KneserNey
from foundling.corpus.config import CorpusConfig
from foundling.corpus.mixture import Mixture, Phase, plan, uses
from foundling.corpus.quality import roc_auc, train_classifier
from foundling.corpus.rules.config import Perplexity, Quality

RNG = np.random.default_rng(3)


def speech(topic: str, n: int = 60) -> str:
    own = [f"{topic}{i}" for i in range(40)]
    return " ".join(RNG.choice([*own, *(f"common{i}" for i in range(200))], n))


def test_auc_counts_ordered_pairs() -> None:
    assert roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0, 1, 1])) == 0.75
    assert roc_auc(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == 0.5


def test_the_classifier_tells_the_good_ones() -> None:
    model = train_classifier([speech("good") for _ in range(100)], [speech("bad") for _ in range(100)], 0.3)
    assert model.auc > 0.95
    fresh = model.score(pl.Series([speech("good"), speech("bad")]))
    assert fresh[0] > model.threshold > fresh[1] or fresh[0] > fresh[1]
    same = train_classifier([speech("x") for _ in range(100)], [speech("x") for _ in range(100)], 0.3)
    assert same.auc < 0.75  # nothing to tell: no classifier should pretend
    with pytest.raises(FoundlingError, match="at least ten"):
        train_classifier(["one"], ["two"] * 20, 0.5)


def test_bits_of_each_text_equal_the_text_alone() -> None:
    model = KneserNey([speech("a") for _ in range(5)], 4)
    column = [speech("a"), "é", speech("zz")]
    assert model.bits_of(column) == pytest.approx([model.bits_per_byte([text]) for text in column])


def test_learned_filters_in_the_stage(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for n in range(30):
        (tmp_path / "good" / f"{n}.txt").write_text(speech("good"))
    rows = [{"text": speech("good" if n % 2 else "bad"), "kind": n % 2} for n in range(80)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = (str(tmp_path / "rows.jsonl"),)
    corpus = make(tmp_path / "s", data=data, validation_bytes=0, quality=Quality(good=(str(tmp_path / "good"),)))
    kinds = [json.loads(m)["kind"] for m in pl.read_parquet(corpus.file("train.parquet"))["meta"]]
    assert np.mean(kinds) > 0.8
    report = json.loads(corpus.file("report.json").read_text())
    assert report["learned"]["quality"]["auc"] > 0.6 and "quality: too low" in report["dropped"]
    reference = Perplexity(reference=(str(tmp_path / "good"),), max_bits_per_byte=0.5)
    with pytest.raises(FoundlingError, match="bits_per_byte: too high"):
        make(tmp_path / "s", data=data, validation_bytes=0, perplexity=reference)


def only(config: Mixture, sizes: dict[str, int]) -> dict[str, float]:
    """The plan of a mixture without phases."""
    (epochs,) = plan(config, sizes)
    return epochs


def test_weights_temperature_and_cap() -> None:
    sizes = {"web": 1000, "books": 100, "code": 10}
    assert only(Mixture(), sizes) == pytest.approx({"web": 1, "books": 1, "code": 1})
    doubled = only(Mixture(weights={"books": 2.0}), sizes)
    assert doubled["books"] / doubled["web"] == pytest.approx(2)
    even = only(Mixture(temperature=1e6, max_epochs=1e9), sizes)
    assert even["code"] * 10 == pytest.approx(even["web"] * 1000, rel=1e-3)
    capped = only(Mixture(temperature=1e6), sizes)
    assert capped["code"] == 4 and sum(capped[g] * sizes[g] for g in sizes) == pytest.approx(1110)
    assert only(Mixture(epochs={"co*": 3.0}), sizes)["code"] == 3
    assert sum(only(Mixture(budget_bytes=500), sizes)[g] * sizes[g] for g in sizes) == pytest.approx(500)
    with pytest.raises(FoundlingError, match="Did you mean 'books'"):
        only(Mixture(weights={"bokks": 1.0}), sizes)


@given(
    sizes=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 10**9), min_size=1, max_size=6),
    temperature=st.floats(1, 10),
    budget=st.integers(1, 10**10),
)
def test_a_plan_never_passes_the_cap_or_the_budget(sizes: dict[str, int], temperature: float, budget: int) -> None:
    found = only(Mixture(temperature=temperature, budget_bytes=budget), sizes)
    used = sum(found[g] * sizes[g] for g in sizes)
    assert max(found.values()) <= 4 + 1e-9
    assert used == pytest.approx(min(budget, 4 * sum(sizes.values())), rel=1e-6)


def test_fractional_epochs_use_a_share_of_the_documents() -> None:
    ids = RNG.integers(0, 2**63, 4000).astype(np.uint64)
    found = uses(np.repeat([0, 1], 2000), ids, np.array([[2.5, 0.25]]))[:, 0]
    assert set(found[:2000].tolist()) == {2, 3} and set(found[2000:].tolist()) == {0, 1}
    assert abs(found[:2000].mean() - 2.5) < 0.05 and abs(found[2000:].mean() - 0.25) < 0.05


def test_a_mixture_in_the_stage(tmp_path: Path) -> None:
    for name, n in (("a", 6), ("b", 6)):
        rows = [json.dumps({"text": speech(f"{name}{i}")}) for i in range(n)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    data = (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    mixture = Mixture(epochs={"file:a*": 3.0, "file:b*": 1.0})
    corpus = make(tmp_path / "s", data=data, validation_bytes=0, mixture=mixture)
    found = texts(corpus)
    assert len(found) == 24 and sorted(found.count(text) for text in set(found)) == [1] * 6 + [3] * 6
    assert len(set(found[:12])) == 12  # a second use never stands right after the first


def test_a_curriculum_uses_other_documents_in_each_phase(tmp_path: Path) -> None:
    phases = (Phase(share=3, weights={"a": 1.0}), Phase(share=1, weights={"a": 0.0}))
    first, second = plan(Mixture(phases=phases), {"a": 100, "b": 100})
    assert first == pytest.approx({"a": 0.75, "b": 0.75}) and second == pytest.approx({"a": 0.0, "b": 0.5})
    ids = RNG.integers(0, 2**63, 2000).astype(np.uint64)
    found = uses(np.repeat([0, 1], 1000), ids, np.array([[0.75, 0.75], [0.0, 0.25]]))
    assert found.max() == 1 and (found.sum(axis=1) <= 1).all()  # b: three quarters first, the others in phase two
    assert found[1000:].sum() == 1000 and found[:1000, 1].sum() == 0

    for name in ("a", "b"):
        rows = [json.dumps({"text": speech(f"{name}{i}")}) for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    data = (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    config = Mixture(phases=(Phase(share=3, weights={"file:b*": 0}), Phase(share=1, weights={"file:a*": 0})))
    corpus = make(tmp_path / "s", data=data, validation_bytes=0, mixture=config)
    report = json.loads(corpus.file("report.json").read_text())
    assert [phase["share"] for phase in report["phases"]] == [0.75, 0.25]
    sources = pl.read_parquet(corpus.file("train.parquet"))["source"].to_list()
    count = report["phases"][0]["documents"]
    assert set(sources[:count]) == {"file:a.jsonl"} and set(sources[count:]) == {"file:b.jsonl"}
    assert report["phases"][1]["documents"] == len(sources) - count
    assert "left out by the mixture" in report["dropped"]  # of b, whose share is smaller than its text
    read = report["read"]["documents"]
    assert len(set(texts(corpus))) + sum(row["documents"] for row in report["dropped"].values()) == read


def test_any_scorer_can_be_the_perplexity_filter(tmp_path: Path) -> None:
    """A model in place of the n-grams: what is passed in decides."""
    rows = [{"text": speech("x") + (" zebra" if n % 2 else "")} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "model").mkdir()
    config = CorpusConfig(
        data=(str(tmp_path / "rows.jsonl"),),
        validation_bytes=0,
        perplexity=Perplexity(model=str(tmp_path / "model"), max_bits_per_byte=3, min_bits_per_byte=1),
    )

    def scorer(model: str):  # type: ignore[no-untyped-def]
        assert model == str(tmp_path / "model")
        return lambda column: np.array([9.0 if "zebra" in text else 2.0 for text in column])

    made, _ = run_stage(Store(tmp_path / "s"), STAGE, config, {}, {"scorer": scorer})
    assert len(texts(made)) == 5 and not any("zebra" in text for text in texts(made))
    assert json.loads(pl.read_parquet(made.file("train.parquet"))["meta"][0])["bits_per_byte"] == 2.0
    with pytest.raises(ValueError, match="either `reference`"):
        Perplexity()


def test_budgets_in_tokens() -> None:
    sizes = {"a": 1000}
    assert only(Mixture(budget_tokens=100, bytes_per_token=5), sizes) == {"a": 0.5}
