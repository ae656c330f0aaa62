"""The stage `synthesize` end to end: rows and their card from a tiny model, and from a model behind a URL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.post_training import synthesize
from foundling.post_training.config import SFTConfig, SynthesizeConfig
from foundling.post_training.sft import build_sft

from .tiny_chat import SMALL, make_directory


class _Scripted:
    """A model that says what a function of its prompt says; its engine counts the calls."""

    def __init__(self, say: Any) -> None:
        self.say, self.engine = say, self

    def request(self, chat: Sequence[dict[str, str]], **options: Any) -> Any:
        return SimpleNamespace(text=chat[-1]["content"], **options)

    def generate(self, requests: Sequence[Any]) -> list[Any]:
        return [SimpleNamespace(text=self.say(request)) for request in requests]


def _draft(path: Path) -> Draft:
    draft = Draft(path / "files", path / "scratch", "0123456789abcdef")
    for folder in (draft.path, draft.scratch):
        folder.mkdir(parents=True)
    return draft


def _rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _made(draft: Draft) -> list[Any]:
    return [json.loads(line) for line in (draft.path / "rows.jsonl").read_text().splitlines()]


def test_revisions_become_a_data_set_that_sft_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards constitution → critique → revision → SFT, with writer and judge behind URLs, low ratings counted out."""

    def say(request: Any) -> str:
        if "Reply with the number" in request.text:
            return "2" if "Question: say 3" in request.text else "Points: 5"
        if "Write the last answer anew" in request.text:
            return f"better {request.seed % 1000}"
        return "it falls short" if "Say in a few sentences" in request.text else "first"

    monkeypatch.setattr(synthesize, "connect", lambda url: _Scripted(say))
    prompts = _rows(tmp_path / "prompts.jsonl", [{"prompt": f"say {i}"} for i in range(6)])
    draft = _draft(tmp_path / "made")
    config = SynthesizeConfig(method="revisions", data=(prompts,), url="http://x/v1", judge_url="http://y/v1",
                              min_score=4)  # fmt: skip
    synthesize.build_dataset(config, Inputs({}), draft)
    assert draft.metrics["left_out"] == {"rated below 4": 1} and draft.metrics["rows"] == 5
    assert "criticised by `http://y/v1`" in (draft.path / "README.md").read_text()
    tuned = _draft(tmp_path / "tuned")
    base = Artifact.outside(make_directory(tmp_path / "base"), "model")
    inputs = Inputs({"base": base, "rows": Artifact.outside(draft.path, "dataset")})
    build_sft(SFTConfig(**(SMALL | {"steps": 1})), inputs, tuned)
    assert tuned.metrics["examples"] == 5


def test_a_judge_makes_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards two different samples of each prompt and a judge asked greedily in both orders."""

    def say(request: Any) -> str:
        if "Which answer is better" in request.text:
            assert request.temperature == 0
            first, second = (int(request.text.split(f"Answer {x}: ")[1].split()[0]) for x in "AB")
            return "A" if first > second else "B"
        return str(request.seed % 9973)

    monkeypatch.setattr(synthesize, "connect", lambda url: _Scripted(say))
    prompts = _rows(tmp_path / "prompts.jsonl", [{"instruction": f"say {i}"} for i in range(5)])
    draft = _draft(tmp_path / "made")
    config = SynthesizeConfig(method="preferences", data=(prompts,), url="http://x/v1")
    synthesize.build_dataset(config, Inputs({}), draft)
    assert len(_made(draft)) == 5 and all(int(r["chosen"]) > int(r["rejected"]) for r in _made(draft))


def test_refusals_keep_their_benign_look_alikes(tmp_path: Path) -> None:
    """Guards safety rows without a model: as many answers as refusals, and a refused benign prompt counted out."""
    rows = [{"prompt": f"hurt {i}"} for i in range(3)] + [
        {"prompt": f"kill process {i}", "completion": "Use kill."} for i in range(4)
    ]
    data = _rows(tmp_path / "r.jsonl", [*rows, {"prompt": "kill a lamp", "completion": "I can't help with this."}])
    draft = _draft(tmp_path / "made")
    synthesize.build_dataset(SynthesizeConfig(method="refusals", data=(data,)), Inputs({}), draft)
    assert draft.metrics == {"rows": 6, "left_out": {"a benign prompt is refused": 1}}


def test_a_tiny_model_writes_nothing_that_is_kept(tmp_path: Path) -> None:
    """Guards the real engine's path, and against an empty data set in silence."""
    seeds = _rows(tmp_path / "seeds.jsonl", [{"instruction": "Sort the list"}])
    model = Artifact.outside(make_directory(tmp_path / "base"), "model")
    config = SynthesizeConfig(data=(seeds,), n=2, max_tokens=3)
    with pytest.raises(FoundlingError, match="no row is left"):
        synthesize.build_dataset(config, Inputs({"model": model}), _draft(tmp_path / "made"))
    with pytest.raises(FoundlingError, match="--url"):
        synthesize.build_dataset(config, Inputs({}), _draft(tmp_path / "none"))
    with pytest.raises(FoundlingError, match=r"bad\.jsonl:1"):
        synthesize.build_dataset(
            SynthesizeConfig(data=(_rows(tmp_path / "bad.jsonl", [{"x": 1}]),)), Inputs({}), _draft(tmp_path / "bad")
        )
