"""`tools` and `tool_choice`: calls by constrained decoding, so that what comes back is always a valid call.

The answer is either text, or calls `{"name": ..., "arguments": {...}}`, one a line, each valid under its function's
schema; an answer that begins with "{" is a call. Templates that know tools show them to the model in their own way; for
the others they are described in a system message.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from foundling.core.errors import FoundlingError
from foundling.serving.errors import refused
from foundling.serving.formats import schema_grammar
from foundling.serving.requests import ChatBody, NamedTool, ResponseFormat

if TYPE_CHECKING:
    from foundling.inference.structured.grammar import Grammar
    from foundling.serving.service import Service

# Compact JSON: a model that may write any whitespace can go on writing it.
COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
EXPLANATION = """You can call these functions. To call one, answer with nothing but a line of JSON of the form
{"name": ..., "arguments": {...}}.
"""


class Tools:
    """The functions that an answer may call, and how.

    Attributes:
        grammar: what the answer must look like.
        shown: the functions for the chat template; None if it is to show none.
    """

    def __init__(self, grammar: Grammar, shown: list[dict[str, Any]]) -> None:
        self.grammar, self.shown = grammar, shown

    def calls(self, text: str) -> list[dict[str, Any]] | None:
        """The calls an answer consists of, in OpenAI's form; None if it is text. A last call cut short is left out."""
        if not text.startswith("{"):
            return None
        found = []
        for line in text.splitlines():
            try:
                call = json.loads(line)
            except ValueError:
                break  # cut off at the token limit: the finish reason says so
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
            found.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
        return found


async def tools_of(service: Service, body: ChatBody) -> Tools | None:
    """The tools of a request; None if it has none, or does not want them called.

    Raises:
        ApiError: a choice without tools or of an unknown one, or a schema that cannot be held to.
    """
    choice = body.tool_choice or "auto"
    if not body.tools:
        if body.tool_choice not in (None, "none", "auto"):
            raise refused("tool_choice", "tool_choice needs tools")
        return None
    names = [tool.function.name for tool in body.tools]
    if len(set(names)) < len(names):
        raise refused("tools", "two functions have the same name")
    if choice == "none":
        return None
    if body.response_format is not None and body.response_format.type != "text":
        raise refused("response_format", "response_format and tools cannot be combined; set tool_choice: none")
    if isinstance(choice, NamedTool):
        if choice.function.name not in names:
            raise refused("tool_choice.function.name", f"{choice.function.name!r} is not among the tools")
        names = [choice.function.name]
    grammar = await _grammar(service, body, names, isinstance(choice, NamedTool), choice == "auto")
    return Tools(grammar, [tool.model_dump(exclude_none=True) for tool in body.tools])


async def _grammar(service: Service, body: ChatBody, names: list[str], one: bool, text: bool) -> Grammar:
    from foundling.inference.structured.grammar import lark

    rules = []
    for number, tool in enumerate(body.tools or []):
        schema = tool.function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}
        await schema_grammar(service, schema, f"tools[{number}].function.parameters")
        if tool.function.name in names:
            rules.append(f"%json {json.dumps(_call_schema(tool.function.name, schema))}")
    more = "" if one or body.parallel_tool_calls is False else ' ("\\n" call)*'
    lines = [f"start: calls{' | text' if text else ''}", f"calls: call{more}"]
    lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(rules))))
    lines += [f"call_{i}: {rule}" for i, rule in enumerate(rules)]
    if text:
        lines.append("text: /[^{](.|\\n)*/")
    try:
        return await service.aside(lark, "\n".join(lines))
    except FoundlingError as error:
        raise refused("tools", str(error)) from None


def _call_schema(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    # "$ref"s start at the root
    shared: dict[str, Any] = {key: arguments[key] for key in ("$defs", "definitions") if key in arguments}
    arguments = {key: value for key, value in arguments.items() if key not in shared}
    return {
        "x-guidance": COMPACT,
        **shared,
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def with_explanations(
    messages: list[dict[str, Any]], tools: Tools | None, form: ResponseFormat | None, service: Service
) -> list[dict[str, Any]]:
    """The messages, with a system message that says what the request's other fields tell the model.

    These are the tools, where the template does not show them itself, and the description of a schema.
    """
    said = []
    if tools is not None and "tools" not in (service.tokenizer.chat_template or ""):
        shown = (json.dumps(tool["function"], ensure_ascii=False) for tool in tools.shown)
        said.append(EXPLANATION + "\n".join(shown))
    if form is not None and form.json_schema is not None and form.json_schema.description:
        said.append(f"Answer in JSON: {form.json_schema.description}")
    if not said:
        return messages
    text, first = "\n\n".join(said), messages[0]
    if first["role"] == "system":
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
