"""Judges over evaluations: models, URLs, reward models, votes; and evaluation over a URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.serving.mock_server import Running

from foundling.core.artifacts import Artifact, Draft
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.evaluation import evaluate, judging
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.judge import grade
from foundling.evaluation.judging import exchanges, judge_evaluations, read_votes
from foundling.evaluation.report import write_report
from foundling.evaluation.requests import Answer, Answerer, Generate, GenerateAnswer, Request
from foundling.inference.model import load
from foundling.serving.config import ServeConfig


@pytest.fixture(scope="module")
def server(model_directory: Path) -> Iterator[Running]:
    running = Running(load(model_directory), ServeConfig(name="tiny"))
    yield running
    running.stop()


def evaluated(folder: Path, config: dict[str, object], model: Path | None = None) -> Artifact:
    draft = Draft(folder / "files", folder / "scratch", "0" * 16)
    draft.path.mkdir(parents=True, exist_ok=True)
    draft.scratch.mkdir(exist_ok=True)
    inputs = Inputs({"model": Artifact.outside(model, "model")} if model else {})
    evaluate.build(parse(EvaluateConfig, config, "test"), inputs, draft)
    return Artifact.outside(draft.path, "evaluation")


def task_files(folder: Path) -> list[str]:
    rows = [
        {"q": f"import os, x{n} =", "options": ["os", "import"], "gold": n % 2, "turns": ["hi", "and?"]}
        for n in range(6)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    shared = {"version": 1, "data": {"file": "rows.jsonl"}}
    specs = {
        "pick": {"kind": "choices", "prompt": "{{q}}", "choices": "options", "answer": "gold"},
        "say": {"kind": "generate", "prompt": "{{q}}", "answer": "options[0]", "max_tokens": 4},
        "talk": {"kind": "conversation", "turns": "turns", "max_tokens": 4},
    }
    for name, spec in specs.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, **shared, **spec}))
    return [str(folder / f"{name}.yaml") for name in specs]


def test_a_url_is_evaluated_as_the_model_behind_it(server: Running, model_directory: Path, tmp_path: Path) -> None:
    """Guards against other prompts, spaces or stop rules for a URL than for the same model at home."""
    tasks = task_files(tmp_path)
    far = evaluated(tmp_path / "far", {"tasks": tasks, "url": server.url, "price_per_million": [1.0, 2.0]})
    home = evaluated(tmp_path / "home", {"tasks": tasks}, model_directory)
    ours, theirs = (json.loads(e.file("results.json").read_text()) for e in (home, far))
    assert theirs["model"] == {"url": server.url, "name": "tiny"} and ours["model"]["parameters"] > 100_000
    for task in ours["tasks"]:
        mine, other = ({m: v["value"] for m, v in r["tasks"][task]["metrics"].items()} for r in (ours, theirs))
        assert mine == pytest.approx(other), task
    assert exchanges(far) == exchanges(home)
    assert ours["tasks"]["say"]["tokens"] == theirs["tasks"]["say"]["tokens"]
    assert json.loads(far.file("timings.json").read_text())["say"]["money"] > 0
    for config, message in (
        ({"tasks": tasks[:1], "url": server.url, "chat": True}, "[Ll]eave out --chat"),
        ({"tasks": tasks[:1]}, "either a model or a `url`"),
    ):
        with pytest.raises(FoundlingError, match=message):
            evaluated(tmp_path / "refused", config)
    write_report({"home": home, "far": far}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "page-samples/pick-all-1.html" in page and "Error budget" in page and "peak memory" in page
    assert "import os, x5 =" in (tmp_path / "page-samples" / "say-all-1.html").read_text()


class Prefers(Answerer):
    """Says the letter of the answer that holds a word; grades by length."""

    def answer(self, requests: list[Request]) -> list[Answer]:  # type: ignore[override]
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        assert isinstance(request, Generate) and not isinstance(request.prompt, str)
        text = request.prompt[0][1]
        if "Answer A:" in text:
            verdict = "A" if "good" in text.split("Answer A:")[1].split("Answer B:")[0] else "B"
        else:
            answer = text.split("Answer:\n")[1]
            verdict = "10/10" if "good" in answer else "a 3, I think" if "fair" in answer else "none"
        return GenerateAnswer((verdict,), ("stop",), 1, 1)


def samples(folder: Path, answers: list[str]) -> Artifact:
    folder.mkdir()
    rows = [
        {
            "task": "t",
            "id": str(n),
            "slice": "",
            "metrics": {},
            "flags": [],
            "sample": {"question": f"q{n}", "answer": a},
        }
        for n, a in enumerate(answers)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Artifact.outside(folder, "evaluation")


def test_evaluations_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against answers paired with other prompts, and a page without them."""
    monkeypatch.setattr(judging._Judge, "__init__", lambda self, spec, store: setattr(self, "answerer", Prefers()))
    monkeypatch.setattr(judging._Judge, "is_reward", False)
    pair = {
        "a": samples(tmp_path / "a", ["good", "good", "bad"]),
        "b": samples(tmp_path / "b", ["bad", "bad", "bad too"]),
    }
    found = judge_evaluations(pair, "judge", [], length_control=False)
    assert found.ratings["a"].value > found.ratings["b"].value and found.counts["pairs"] == 3
    assert found.win_rates["a against b"].value == pytest.approx(2.5 / 3)
    assert found.counts["verdicts that turned with the order"] == 1
    found.write_page(tmp_path / "page.html")
    assert "bad too" in (tmp_path / "page.html").read_text()
    alone = judge_evaluations({"a": pair["a"]}, "judge", [], length_control=False)
    assert alone.grades["a"].value == 10.0 and alone.counts["no grade"] == 1 and not alone.ratings
    assert grade([("q", "good"), ("q", "fair"), ("q", "-")], Prefers()) == [10, 3, None]
    with pytest.raises(FoundlingError, match="no judge"):
        judge_evaluations(pair, None, [], length_control=False)
    with pytest.raises(FoundlingError, match="nothing to judge"):
        judge_evaluations({}, "judge", [], length_control=False)


def vote(prompt: str, chosen: str, rejected: str, swap: bool = False) -> str:
    return json.dumps(
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "meta": {"chosen_model": "y" if swap else "x", "rejected_model": "x" if swap else "y"},
        }
    )


def test_votes_are_read_and_labellers_compared(tmp_path: Path) -> None:
    """Guards against kappa over different pairs, and agreement that depends on which answer came first."""
    (tmp_path / "ann.jsonl").write_text("\n".join(vote(f"p{n}", "one", "two", swap=False) for n in range(8)))
    other = [vote(f"p{n}", "one", "two") if n < 6 else vote(f"p{n}", "two", "one", swap=True) for n in range(8)]
    (tmp_path / "bob.jsonl").write_text("\n".join([*other, vote("else", "x", "y")]))
    files = [tmp_path / "ann.jsonl", tmp_path / "bob.jsonl"]
    found = judge_evaluations({}, None, files, length_control=True)
    assert found.ratings["x"].value > found.ratings["y"].value and found.counts["pairs"] == 17
    [(who, kappa)] = found.kappa.items()
    assert "on 8 pairs" in who and kappa == pytest.approx(0.0)  # one of them always says the same: chance
    same = judge_evaluations({}, None, [files[1], _copy(files[1])], length_control=True)
    assert list(same.kappa.values()) == [1.0]
    (tmp_path / "ann.jsonl").write_text('{"prompt": [], "chosen": []}')
    with pytest.raises(FoundlingError, match=r"ann.jsonl:1 is no vote"):
        read_votes(tmp_path / "ann.jsonl")


def _copy(path: Path) -> Path:
    twin = path.with_name("twin.jsonl")
    twin.write_bytes(path.read_bytes())
    return twin


def test_a_reward_model_judges(model_directory: Path, tmp_path: Path) -> None:
    """Guards against rewards of the prompt alone, and a judge that reads the vocabulary's logits."""
    import torch

    from foundling.models.build import build
    from foundling.models.checkpoint import save_module
    from foundling.models.config import HeadConfig

    config = load(model_directory).module.config
    labels = config.model_copy(update={"head": HeadConfig(kind="labels", n_labels=1), "tie_embeddings": False})
    module = build(labels, seed=3, zero_outputs=False)
    with torch.no_grad():
        assert module.output is not None
        module.output.weight.normal_()
    folder = tmp_path / "reward"
    save_module(module, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model_directory / name).read_bytes())
    pair = {"a": samples(tmp_path / "a", ["one", "two"]), "b": samples(tmp_path / "b", ["one", "three"])}
    found = judge_evaluations(pair, str(folder), [], length_control=False)
    winners = [judgement.winner for _, judgement in found.shown]
    assert winners[0] == "tie" and winners[1] in ("a", "b")
