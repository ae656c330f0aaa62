"""The comparison of ways to a valid answer, on a model whose answers are scripted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from foundling.core.errors import FoundlingError
from foundling.inference.requests import Completion
from foundling.studies.structured import Study, validator

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
VALID, FENCED, WRONG, CUT = '{"a": 1}', '```json\n{"a": 1,}\n```', '{"b": 1}', '{"a": 1'


class Scripted:
    """Answers in turn from a list for each prompt; under a grammar always validly."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers, self.generated, self.tokenizer = answers, 0, SimpleNamespace(chat_template="x")
        self.engine = self

    def request(self, messages: list[dict[str, str]], **sampling: Any) -> tuple[str, dict[str, Any]]:
        return messages[0]["content"], sampling

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(generated_tokens=self.generated, forced_tokens=0)

    def generate(self, requests: list[tuple[str, dict[str, Any]]]) -> list[Completion]:
        done = []
        for content, sampling in requests:
            self.generated += 10
            key = next(key for key in self.answers if key in content)
            script = self.answers[key]
            text = VALID if "grammar" in sampling else script.pop(0) if len(script) > 1 else script[0]
            done.append(Completion(text, [], [], "length" if text == CUT else "stop"))
        return done


def test_each_way_is_counted_for_what_it_does() -> None:
    model = Scripted({"first": [VALID], "second": [FENCED, FENCED, VALID], "third": [CUT, WRONG]})
    judge = Scripted({"Is the content": ["yes", "no", "Yes."]})
    study = Study(SCHEMA, ["first", "second", "third"], attempts=4)
    ways = {way.name: way for way in study.compare(model, judge=judge)}  # type: ignore[arg-type]
    assert {name: way.valid.value for name, way in ways.items()} == pytest.approx(
        {"prompt": 1 / 3, "repair": 1.0, "resample": 2 / 3, "constrain": 1.0}
    )
    assert ways["prompt"].failures == {"not JSON": 1, f"cut off at {study.max_tokens} tokens": 1}
    assert ways["repair"].repaired == 2 and ways["prompt"].repaired == 0
    assert ways["resample"].failures == {"violates 'required'": 1}
    assert ways["resample"].tokens == pytest.approx((3 + 2 + 1 + 1) * 10 / 3)  # the open ones are asked again
    assert ways["prompt"].right is not None and ways["prompt"].right.n == 1


def test_yaml_and_mistakes() -> None:
    model = Scripted({"x": ["a: 1"]})
    assert all(way.valid.value == 1 for way in Study(SCHEMA, ["x"], "yaml").compare(model)[:3])  # type: ignore[arg-type]
    with pytest.raises(FoundlingError, match="no prompts"):
        Study(SCHEMA, []).compare(model)  # type: ignore[arg-type]
    with pytest.raises(FoundlingError, match="not a JSON Schema"):
        validator({"type": "strnig"})
