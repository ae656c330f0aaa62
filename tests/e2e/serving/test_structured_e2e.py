"""Structured answers and tools through the official client, on a random model: only grammar makes these valid."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from tests.e2e.serving.test_serve_e2e import Process, directory, process

__all__ = ["directory", "process"]  # fixtures

USER: Any = [{"role": "user", "content": "the quick brown"}]
SCHEMA = {
    "type": "object",
    "$defs": {"who": {"enum": ["ann", "bob"]}},
    "properties": {"name": {"$ref": "#/$defs/who"}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "description": "the time"}}


def test_json_schema_and_json_object(process: Process) -> None:
    """Guards answers that are valid whatever the model wants, streamed and whole, for every choice."""
    schema: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    asked: Any = {"model": "tiny", "messages": USER, "max_tokens": 60, "seed": 1}
    answer = process.client.chat.completions.create(**asked, response_format=schema, n=3)
    for choice in answer.choices:
        value = json.loads(choice.message.content)
        assert value["name"] in ("ann", "bob") and 0 <= value["age"] <= 99 and choice.finish_reason == "stop"
    said = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in process.client.chat.completions.create(**asked, response_format=schema, stream=True)
    )
    assert set(json.loads(said)) == {"name", "age"}
    any_object = process.client.chat.completions.create(**asked, response_format={"type": "json_object"})
    choice = any_object.choices[0]
    assert choice.message.content.lstrip().startswith("{")
    assert choice.finish_reason == "length" or json.loads(choice.message.content) is not None


def test_a_forced_tool_is_called_with_valid_arguments(process: Process) -> None:
    """Guards tool_choice by name and required, whole and streamed."""
    asked: Any = {"model": "tiny", "messages": USER, "tools": [WEATHER, CLOCK], "max_tokens": 75, "seed": 2}
    named: Any = {"type": "function", "function": {"name": "weather"}}
    choice = process.client.chat.completions.create(**asked, tool_choice=named).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather" and set(json.loads(call.function.arguments)) == {"name", "age"}
    chunks = list(process.client.chat.completions.create(**asked, tool_choice=named, stream=True))
    (streamed,) = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
    assert json.loads(streamed.function.arguments) == json.loads(call.function.arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    asked["parallel_tool_calls"] = False
    (call,) = process.client.chat.completions.create(**asked, tool_choice="required").choices[0].message.tool_calls
    assert call.function.name in ("weather", "clock")


def test_tools_may_be_left_alone(process: Process) -> None:
    """Guards auto and none: text is still text."""
    asked: Any = {"model": "tiny", "messages": USER, "tools": [WEATHER], "max_tokens": 10, "temperature": 0}
    for tool_choice in ("auto", "none"):
        message = process.client.chat.completions.create(**asked, tool_choice=tool_choice).choices[0].message
        assert (message.content is None) == bool(message.tool_calls)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
def test_what_cannot_be_held_to_is_refused(process: Process, fields: dict[str, Any], param: str) -> None:
    """Guards against schemas and tools that are quietly ignored."""
    with pytest.raises(openai.BadRequestError) as caught:
        process.client.chat.completions.create(model="tiny", messages=USER, max_tokens=5, **fields)
    assert caught.value.param == param, caught.value
