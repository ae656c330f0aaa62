"""Rewards: verifiers, "I don't know", and rewards that are no numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.evaluation.tasks.expressions import generate
from foundling.post_training import reward_model, rewards
from foundling.post_training.config import ReinforceConfig
from foundling.post_training.reward_model import calibration_error, load_ensemble
from foundling.post_training.rewards import Prompted, as_prompted, judge


def _prompted(verifier: str, data: Any) -> Prompted:
    return as_prompted({"prompt": "q", "verifier": verifier, "data": data}, "rows.jsonl:1")


def test_each_verifier_judges_its_own_prompts() -> None:
    """Guards the routing of a mixed batch: every prompt is checked by its own verifier, failures keep their reason."""
    pytest.importorskip("jsonschema", reason="the verifier `schema` needs jsonschema")
    item = generate("train", 1)[0]
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    prompts = [
        _prompted("exact", ["Paris", "paris, France"]), _prompted("contains", "42"), _prompted("schema", schema),
        _prompted("schema", schema), _prompted("schema", schema), Prompted(item.id, (), "expression", item),
        Prompted(item.id, (), "expression", item),
    ]  # fmt: skip
    answers = [" PARIS. ", "it is 42!", '{"a": 1}', '{"a": "1"}', "{", item.reference, "xs["]
    judged = judge(prompts, answers, ReinforceConfig(), None)
    assert judged.passed == [True, True, True, False, False, True, False]
    assert judged.rewards == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert judged.reasons == {"wrong": 1, "not JSON": 1, "syntax": 1}


def test_a_program_that_misbehaves_costs_one_answer() -> None:
    """Guards against programs that hang, crash or flood: each is one counted reason, and the others are judged."""
    tests = "assert double(4) == 8"
    answers = [
        "```python\ndef double(x):\n    return 2 * x\n```", "def double(x): return x",
        "while True: pass", "import sys\nwhile True: sys.stdout.write('x' * 65536)", "import os\nos._exit(0)",
    ]  # fmt: skip
    try:
        judged = judge([_prompted("python", tests)] * len(answers), answers, ReinforceConfig(), None)
    except FoundlingError as error:
        pytest.skip(str(error))
    assert judged.passed == [True, False, False, False, False]
    assert judged.reasons["error"] == 1 and judged.reasons["timeout"] == 1 and judged.reasons["output"] == 1
    assert sum(judged.reasons.values()) == 4


def test_a_pattern_that_backtracks_for_ever_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the one verifier that runs in this process: its time is limited, too, and the next answer is judged."""
    pytest.importorskip("jsonschema", reason="the verifier `schema` needs jsonschema")
    monkeypatch.setattr(rewards, "SCHEMA_S", 0.2)
    prompts = [_prompted("schema", {"type": "string", "pattern": "^(a+)+$"})] * 2
    judged = judge(prompts, [f'"{"a" * 40}!"', '"aa"'], ReinforceConfig(), None)
    assert judged.passed == [False, True] and judged.reasons == {"timeout": 1}


def test_a_score_and_a_verdict_can_be_mixed() -> None:
    """Guards the mix of a reward model with a verifier: score + weight · (right, unsure or made up)."""
    config = ReinforceConfig(wrong_reward=-1.0, unsure_reward=0.0, verified_weight=2.0)
    prompts = [_prompted("exact", "x")] * 3
    judged = judge(prompts, ["x", "I don't know.", "y"], config, lambda chats: [0.5] * len(chats))
    assert judged.rewards == [2.5, 0.5, -1.5]


def test_an_ensemble_trusts_what_its_members_agree_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the three ways to combine scores: an answer that one member alone loves must not win when cautious."""
    scores = {"a": [1.0, 9.0], "b": [1.0, -3.0]}
    monkeypatch.setattr(reward_model, "load_scorer", lambda path: lambda chats: scores[path.name])
    members, chats = [Path("a"), Path("b")], [[], []]
    assert load_ensemble(members, "mean")(chats) == [1.0, 3.0]
    assert load_ensemble(members, "worst")(chats) == [1.0, -3.0]
    assert load_ensemble(members, "cautious")(chats) == [1.0, -3.0]


def test_not_knowing_is_better_than_making_it_up() -> None:
    """Guards the mix that punishes made-up answers: wrong < unsure < right."""
    config = ReinforceConfig(wrong_reward=-1.0, unsure_reward=0.2)
    prompts = [_prompted("exact", "x")] * 3
    assert judge(prompts, ["x", "I don't know.", "y"], config, None).rewards == [1.0, 0.2, -1.0]


def test_a_reward_that_is_no_number_names_the_prompt() -> None:
    """Guards against NaN that spreads into the weights."""
    with pytest.raises(FoundlingError, match=r"rows\.jsonl:1 is nan"):
        judge([_prompted("exact", "x")], ["x"], ReinforceConfig(), lambda chats: [math.nan])


@pytest.mark.parametrize(
    ("row", "said"),
    [({"prompt": "q"}, "data"), ({"prompt": "q", "verifier": "exat", "data": 1}, "exact"), ([], "data")],
)
def test_rows_that_cannot_be_verified_are_named(row: Any, said: str) -> None:
    """Guards the door: file and line, and the nearest verifier."""
    with pytest.raises(FoundlingError, match=said) as caught:
        as_prompted(row, "rows.jsonl:7")
    assert "rows.jsonl:7" in str(caught.value)


def test_calibration_error() -> None:
    """Guards the two ends: a certain model that is right has none, one that is wrong has all."""
    assert calibration_error(torch.full((10,), 50.0)) < 1e-6
    assert calibration_error(torch.full((10,), -50.0)) > 0.99
    half = torch.tensor([1e-3, -1e-3] * 5)
    assert calibration_error(half) < 0.01
