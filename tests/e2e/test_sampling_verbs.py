"""The verbs about sampling, on a model made from nothing: they print what the engine's own functions say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foundling.cli.main import main


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    text = folder / "text"
    text.mkdir()
    for number in range(12):
        words = " ".join(f"word{(number * 37 + i * i) % 101}" for i in range(400))
        (text / f"{number}.txt").write_text(f"Document {number}. {words}.\n")
    data = ["--data", str(text), "--preset", "foundling-1m", "--steps", "1", "--context", "64", "--batch-size", "2"]
    main(["pretrain", *data, "--store", str(folder), "--json"])
    return folder


def test_sample_explain_shows_each_step(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["sample-explain", "word", "--temperature", "0.5", "--top-k", "3", "--json", "--store", str(store)])
    steps = json.loads(capsys.readouterr().out)
    assert [step["step"].split()[0] for step in steps] == ["model", "temperature", "top_k"]
    assert steps[-1]["kept"] == 3 and sum(steps[-1]["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_best_of_takes_the_answer_that_the_verifier_accepts(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    arguments = ["--n", "3", "--max-tokens", "4", "--seed", "1", "--json", "--store", str(store)]
    main(["best-of", "word", *arguments])
    drawn = json.loads(capsys.readouterr().out)
    assert len(drawn["samples"]) == 3 and drawn["text"] in drawn["samples"]
    main(["best-of", "word", "--verifier", "true", *arguments])
    accepted = json.loads(capsys.readouterr().out)
    assert accepted["text"] == min(accepted["samples"], key=len)


def test_best_of_without_a_verifier_says_what_is_missing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["best-of", "word", "--choose", "verifier", "--store", str(store)])
    assert stopped.value.code == 2 and "--verifier" in capsys.readouterr().err
