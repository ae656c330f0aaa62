"""What an answer must look like, as data: a JSON schema, any JSON, a regular expression, a choice, a Lark grammar.

No model and no tokenizer here; `matcher.py` turns a grammar into token masks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from foundling.core.errors import FoundlingError


class BadGrammar(FoundlingError):
    """A grammar that cannot be compiled, uses what is not supported, or has no answer."""


@dataclass(frozen=True)
class Grammar:
    """A checked grammar.

    Args:
        kind: "json_schema", "json", "regex", "choice" or "lark".
        source: llguidance's own form of it.
    """

    kind: str
    source: str

    def __post_init__(self) -> None:
        failed, messages = LLMatcher.validate_grammar_with_warnings(self.source)
        if failed:
            raise BadGrammar(f"the {self.kind.replace('_', ' ')} cannot be used", _plain(messages[0]))

    def response_format(self) -> dict[str, Any]:
        """OpenAI's `response_format` for it.

        Raises:
            BadGrammar: that interface has JSON schemas and any JSON object only.
        """
        if self.kind == "json":
            return {"type": "json_object"}
        if self.kind != "json_schema":
            raise BadGrammar(
                f"a {self.kind} grammar cannot be asked of a URL", "OpenAI's interface has JSON forms only"
            )
        schema = json.loads(self.source)["grammars"][0]["json_schema"]
        schema.pop("x-guidance", None)
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def json_schema(schema: Mapping[str, Any] | bool | str, *, whitespace: bool = False) -> Grammar:
    """Answers that are valid under a JSON Schema.

    Args:
        whitespace: allow any JSON whitespace between tokens; otherwise the compact form only.

    Raises:
        BadGrammar: naming the keyword that is not supported, or saying that nothing can satisfy the schema.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise BadGrammar("the schema is not JSON", str(error)) from None
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise BadGrammar(f"the schema is {json.dumps(schema)}", "expected an object; `false` allows no answer")
    options: Any = {"whitespace_flexible": whitespace, "item_separator": ",", "key_separator": ":"}
    try:
        source = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    except ValueError as error:
        raise BadGrammar("the schema cannot be used", str(error)) from None
    except RecursionError:
        raise BadGrammar("the schema cannot be used", "it is nested too deeply") from None
    return Grammar("json_schema", source)


def any_json() -> Grammar:
    """Any JSON object, as OpenAI's `json_object`."""
    return Grammar("json", json_schema({"type": "object"}, whitespace=True).source)


def regex(pattern: str) -> Grammar:
    """Answers that match a regular expression as a whole (Rust's syntax, without look-around)."""
    return Grammar("regex", LLMatcher.grammar_from_regex(pattern))


def choice(options: Sequence[str]) -> Grammar:
    """One of the given texts."""
    if not options or not all(options):
        raise BadGrammar(f"the choices are {list(options)}", "expected non-empty texts")
    alternatives = " | ".join(json.dumps(option, ensure_ascii=False) for option in options)
    return Grammar("choice", LLMatcher.grammar_from_lark(f"start: {alternatives}"))


def lark(text: str) -> Grammar:
    """Answers of a grammar in Lark's syntax (llguidance's dialect), whose first rule is `start`."""
    return Grammar("lark", LLMatcher.grammar_from_lark(text))


def _plain(message: str) -> str:
    """The first line of llguidance's message, without its prefixes."""
    line = message.strip().splitlines()[0]
    return line.removeprefix("ERROR: ").removeprefix("Error: ")
