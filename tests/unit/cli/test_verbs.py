"""What the verbs take when nothing is named, what they print, and how they refuse: without running a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundling.cli.main import main
from foundling.cli.stages import _add_stage
from foundling.core import progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.lives import Life, write_life
from foundling.models.quantized import Scheme, refuse_to_train_compressed
from foundling.models.quantized_bytes import layer_class
from foundling.pipeline import STAGES
from foundling.releases.summary import print_end, print_models, print_scores

SCORE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90, "higher_is_better": True}


def publish(store: Store, kind: str, stage: str, metrics: dict[str, Any] | None = None, **inputs: str) -> Artifact:
    with store.draft(kind, stage, 1, {}, inputs) as draft:
        draft.file("model.safetensors").write_bytes(b"0123456789")
        draft.metrics |= metrics or {}
    return store.require(draft.key, kind)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A life of corpus, base, sft and int8."""
    store = Store(tmp_path / "runs")
    corpus = publish(store, "corpus", "corpus")
    base = publish(store, "model", "pretrain", corpus=corpus.key)
    sft = publish(store, "model", "sft", base=base.key)
    int8 = publish(store, "model", "compress", model=sft.key)
    stages = {"corpus": corpus.key, "base": base.key, "sft": sft.key, "int8": int8.key}
    write_life(store, Life("sft", stages=stages))
    return store


def inputs_of(store: Store, verb: str, **given: str) -> dict[str, str]:
    stages: dict[str, Any] = {}
    _add_stage(stages, STAGES[verb], {}, given, None, store)
    names = {artifact.key: artifact.stage for artifact in store.artifacts()}
    return {port: names.get(key, key) for port, key in stages[verb]["inputs"].items()}


def test_training_and_compressing_begin_with_the_last_model_that_is_not_compressed(store: Store) -> None:
    """Codes cannot be trained: after a quickstart, `foundling sft` trained what is left of the int4 model."""
    assert inputs_of(store, "sft") == {"base": "sft"}
    assert inputs_of(store, "compress") == {"model": "sft", "corpus": "corpus"}


def test_an_evaluation_takes_the_corpus_that_its_model_was_made_from(store: Store) -> None:
    assert inputs_of(store, "evaluate", model="sft/int8") == {"model": "compress", "corpus": "corpus"}
    assert inputs_of(store, "evaluate", model="sft/base") == {"model": "pretrain", "corpus": "corpus"}
    assert inputs_of(store, "evaluate", model="some/hub-id") == {"model": "some/hub-id"}


def test_a_life_may_be_called_like_the_stage_that_takes_it(store: Store) -> None:
    """`foundling sft --base sft` went in a circle."""
    assert inputs_of(store, "sft", base="sft/base") == {"base": "pretrain"}
    assert inputs_of(store, "reward", base="sft") == {"base": "compress"}


def test_the_end_of_a_run_says_what_was_run_and_how_to_run_it_again(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    base = next(artifact for artifact in store.artifacts() if artifact.stage == "pretrain")
    reference = [{"name": "gzip", "value": 0.25}]
    evaluation = publish(
        store, "evaluation", "evaluate", {"expressions.pass@1": {**SCORE, "reference": reference}}, model=base.key
    )
    life = {"base": base, "evaluate-base": evaluation}
    print_models("mine", life)
    print_end(life, {"base"}, 60.0, "foundling run my.yaml --set base.steps=3", " --store there")
    print_scores(evaluation)
    out = capsys.readouterr().err
    assert "0.500 [0.400, 0.600]" in out and "held-out instructions answered right" in out
    assert "planned 1m00s" in out
    assert "foundling chat --store there" in out
    assert "foundling run my.yaml --set base.steps=3 --set seed=1 --store there" in out
    assert "gzip 0.25" in out and "90" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("init", "{file}/x.yaml"), "file"),
        (("list", "--kind", "modle"), "Did you mean 'model'?"),
        (("plan", "tiny", "--store", "{file}/runs"), "file"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(file=tmp_path / "file") for argument in arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and words in said and len(said.splitlines()) == 1, said


def test_a_mistyped_field_is_refused_before_the_machine_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("foundling.core.hardware.measure", lambda: pytest.fail("measured"))
    with pytest.raises(SystemExit):
        main(["run", "quickstart", "--set", "sft.epocks=2", "--store", str(tmp_path)])
    assert "Did you mean 'epochs'?" in capsys.readouterr().err


def test_init_makes_a_valid_name_of_any_file_name(tmp_path: Path) -> None:
    main(["init", str(tmp_path / "new" / "My first life!.yaml")])
    assert "name: My-first-life\n" in (tmp_path / "new" / "My first life!.yaml").read_text()


def test_a_compressed_model_is_not_trained() -> None:
    scheme = Scheme(bits=8, group_size=32)
    layer = layer_class(scheme)(32, 32, False, scheme)
    with pytest.raises(FoundlingError, match="is compressed, and codes cannot be trained"):
        refuse_to_train_compressed(layer)


def test_hints_are_sentences() -> None:
    error = FoundlingError("there is no 'sfd'", nearest("sfd", ["sft"]), "foundling list shows all")
    assert str(error) == "there is no 'sfd'. Did you mean 'sft'? foundling list shows all."


def test_a_slow_rate_is_not_zero() -> None:
    bar = progress.Bar("pretrain", 10, "steps")
    bar.started -= 100
    bar.done = 2
    assert "0.02/s" in bar._info() and "6m40s left" in bar._info()


def test_several_choices_follow_one_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """`--roads zero-shot lora` is what a user tries first; a misspelt one is answered with the nearest."""
    with pytest.raises(SystemExit) as ended:
        main(["adapt", "nowhere", "--data", "none.jsonl", "--roads", "zero-shot", "classifer"])
    assert ended.value.code == 2 and 'Did you mean "classifier"' in capsys.readouterr().err
