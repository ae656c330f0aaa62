"""Ready-made grammars: whatever random walk is taken through them, the format's usual reader takes the text."""

from __future__ import annotations

import csv
import io
import random
import sqlite3
from collections.abc import Callable

import jsonschema
import pytest
import yaml

from foundling.inference.structured import formats
from foundling.inference.structured.grammar import BadGrammar, Grammar
from foundling.inference.structured.matcher import MatcherFactory, open_brackets
from foundling.tokenization.tokenizer import Tokenizer

TABLES = {"users": ["id", "name"], "orders": ["id", "user_id", "total"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer", "minimum": 0},
        "share": {"type": "number"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "place": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/short"}, "zip code": {"type": "number"}},
            "required": ["city"],
        },
    },
    "required": ["name", "tags", "place"],
    "$defs": {"short": {"type": "string", "maxLength": 5}},
}


@pytest.fixture
def walks(tokenizer: Tokenizer) -> Callable[[Grammar, int], list[str]]:
    """A function that walks at random through a grammar: the complete texts."""
    factory = MatcherFactory(tokenizer, tokenizer.vocab_size)

    def walk(grammar: Grammar, seed: int) -> str | None:
        rng, matcher, tokens = random.Random(seed), factory.matcher(grammar), []
        while len(tokens) < 1500 and not matcher.ended:
            allowed = set(matcher.allowed().nonzero()[:, 0].tolist())
            if allowed & set(tokenizer.stop_ids) and rng.random() < 0.3:
                break
            allowed -= set(tokenizer.stop_ids)
            if not allowed:
                break
            closing = [token for token in allowed if tokenizer.token_bytes(token) in b"\"'\n)"]
            choices = closing if closing and rng.random() < 0.35 else sorted(allowed)
            tokens.append(rng.choice(choices))
            matcher.accept(tokens[-1])
        return tokenizer.decode(tokens) if matcher.complete else None

    def many(grammar: Grammar, count: int) -> list[str]:
        found = [text for text in (walk(grammar, seed) for seed in range(count)) if text is not None]
        assert len(found) > count / 2 and len(set(found)) > count / 3
        return found

    return many


def test_yaml(walks: Callable[[Grammar, int], list[str]]) -> None:
    for text in walks(formats.yaml(), 10):
        assert isinstance(yaml.safe_load(text), dict)
    for text in walks(formats.yaml(SCHEMA), 25):
        jsonschema.validate(yaml.safe_load(text), SCHEMA)


def test_csv(walks: Callable[[Grammar, int], list[str]]) -> None:
    kinds = {"a": "text", "b, c": "integer", "d": ["x", 'y"'], "e": "boolean", "f": "number"}
    for text in walks(formats.csv(kinds, most_rows=2), 12):
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        assert header == list(kinds) and rows
        for _, number, option, flag, real in rows:
            assert str(int(number)) == number.replace("-0", "0") and option in ("x", 'y"') and flag in ("true", "false")
            float(real)
    for text in walks(formats.csv(["only"], most_rows=2), 12):
        assert 2 <= len(list(csv.reader(io.StringIO(text, newline=""), strict=True))) <= 3


def test_sql(walks: Callable[[Grammar, int], list[str]]) -> None:
    database = sqlite3.connect(":memory:")
    for table, columns in TABLES.items():
        database.execute(f"create table {table} ({', '.join(columns)})")
    texts = walks(formats.sql(TABLES), 60)
    for text in texts:
        database.execute(f"explain {text}")  # raises on syntax errors, unknown and ambiguous names
    assert any(" JOIN " in text for text in texts) and any(" WHERE " in text for text in texts)
    for text in walks(formats.sql(), 25):
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            database.execute(f"explain {text}")


def test_what_no_grammar_can_be_made_of() -> None:
    for make in (
        lambda: formats.yaml({"type": "string"}),
        lambda: formats.yaml({"properties": {"a": {}}, "required": ["b"]}),
        lambda: formats.csv([]),
        lambda: formats.csv({"a": "date"}),
        lambda: formats.sql({}),
        lambda: formats.sql({"t": ["a; drop"]}),
    ):
        with pytest.raises(BadGrammar):
            make()


def test_open_brackets() -> None:
    assert open_brackets('{"a": [1, "x]\\"') == '{["' and open_brackets('{"a": "}"}') == ""
