"""Ready-made grammars for three formats that are not JSON: YAML, CSV and SQL's SELECT.

Each is a subset that its usual reader takes without surprises: PyYAML, RFC 4180 readers, SQLite (tests).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from foundling.inference.structured.grammar import BadGrammar, Grammar, lark

DEPTH = 4  # levels of indentation of free YAML
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What YAML 1.1 reads as JSON does: texts are quoted, without line breaks of any kind; numbers have no exponent.
_YAML_CHARACTER = r'([^"\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|\\["\\\/nt])'
_YAML_NUMBER = r"/-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,10})?/"
_YAML_TERMINALS = rf"""
KEY: /[A-Za-z_][A-Za-z0-9_-]{{0,39}}/
NUMBER: {_YAML_NUMBER}
QUOTED: /"{_YAML_CHARACTER}*"/
scalar: NUMBER | QUOTED | "true" | "false" | "null"
"""
_CELLS = {
    "text": r"""TEXT: /([^",\r\n]{1,200}|"([^"\r\n]|""){0,200}")?/""",
    "integer": r"INTEGER: /-?(0|[1-9][0-9]{0,17})/",
    "number": r"NUMBER: /-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,12})?/",
    "boolean": 'BOOLEAN: "true" | "false"',
}
_SQL_TERMINALS = r"""
NAME: /[a-z_][a-z0-9_]{0,39}/
NUMBER: /(0|[1-9][0-9]{0,14})(\.[0-9]{1,6})?/
TEXT: /'([^'\x00-\x1f]|''){0,100}'/
literal: NUMBER | TEXT | "NULL"
comparison: "=" | "<>" | "<" | "<=" | ">" | ">="
direction: " ASC" | " DESC"
limit: " LIMIT " /[1-9][0-9]{0,5}/
function: "SUM" | "AVG" | "MIN" | "MAX"
"""
_SQL_QUERY = """
{p}query: "SELECT " "DISTINCT "? {p}items " FROM {source}" {p}where? {p}group? {p}order? limit?
{p}items: "*" | {p}item (", " {p}item){{0,15}}
{p}item: {p}column | {p}aggregate
{p}aggregate: "COUNT(*)" | "COUNT(" "DISTINCT "? {p}column ")" | function "(" {p}column ")"
{p}where: " WHERE " {p}any
{p}any: {p}all (" OR " {p}all)*
{p}all: {p}test (" AND " {p}test)*
{p}test: {p}column " " comparison " " ({p}column | literal) | "NOT "? "(" {p}any ")"
    | {p}column " IS " "NOT "? "NULL" | {p}column " " "NOT "? "LIKE " TEXT
    | {p}column " BETWEEN " literal " AND " literal | {p}column " " "NOT "? "IN (" literal (", " literal){{0,20}} ")"
{p}group: " GROUP BY " {p}column (", " {p}column){{0,5}} (" HAVING " {p}aggregate " " comparison " " literal)?
{p}order: " ORDER BY " {p}column direction? (", " {p}column direction?){{0,5}}
{p}column: {columns}
"""


def yaml(schema: Mapping[str, Any] | None = None) -> Grammar:
    """YAML in block style.

    Args:
        schema: a JSON Schema of an object; its properties come in their order, objects and lists inside it in block
            style too, everything else in JSON's form (which is YAML, though readers of YAML 1.1 take a number with an
            exponent inside it for text). None: any mapping, up to 4 levels deep.
    """
    if schema is None:
        return lark("start: block0\n" + _free_yaml() + _YAML_TERMINALS)
    if not isinstance(schema.get("properties"), Mapping) or not schema["properties"]:
        raise BadGrammar("the schema has no properties", "YAML in block style needs an object with named properties")
    rules: list[str] = []
    start = _yaml_mapping(schema, schema.get("$defs", {}), 0, rules)
    return lark("\n".join([f"start: {start}", *rules]))


def csv(columns: Mapping[str, str | Sequence[str]] | Sequence[str], *, most_rows: int = 1000) -> Grammar:
    """A header and at least one row, as RFC 4180 has it (with plain line ends).

    Args:
        columns: names, or name -> "text", "integer", "number", "boolean" or the list of what it may say.
    """
    kinds = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "text")
    if not kinds or most_rows < 1:
        raise BadGrammar(f"a table of {len(kinds)} columns and {most_rows} rows", "expected at least one of each")
    cells, used = [], set()
    for name, kind in kinds.items():
        if isinstance(kind, str):
            if kind not in _CELLS:
                raise BadGrammar(
                    f"column {name!r} is of kind {kind!r}", f"expected one of {', '.join(_CELLS)} or a list"
                )
            used.add(kind)
            cells.append(kind.upper())
        else:
            cells.append("(" + " | ".join(_quoted(_csv_cell(option)) for option in kind) + ")")
    header = _quoted(",".join(map(_csv_cell, kinds)) + "\n")
    if len(cells) == 1 and cells[0] == "TEXT":  # an empty line would be no row
        cells[0] = '(TEXT | "\\"\\"")'
    row = ' "," '.join(cells) + ' "\\n"'
    return lark("\n".join([f"start: {header} row{{1,{most_rows}}}", f"row: {row}", *(_CELLS[kind] for kind in used)]))


def sql(tables: Mapping[str, Sequence[str]] | None = None) -> Grammar:
    """One SELECT: columns and aggregates, DISTINCT, WHERE, GROUP BY, HAVING, ORDER BY, LIMIT, and one inner join.

    Args:
        tables: table -> columns: only these names, each where it exists. None: any names, and no join.
    """
    if tables is None:
        return lark("start: query\n" + _SQL_QUERY.format(p="", source='" NAME "', columns="NAME") + _SQL_TERMINALS)
    for name in (*tables, *(column for columns in tables.values() for column in columns)):
        if not _NAME.fullmatch(name):
            raise BadGrammar(f"{name!r} is not a plain SQL name", "letters, digits and underscores only")
    if not tables or not all(tables.values()):
        raise BadGrammar("a table without columns, or no table", "expected {table: [columns]}")
    rules = []
    for number, (table, columns) in enumerate(tables.items()):
        names = " | ".join(_quoted(column) for column in columns)
        rules.append(_SQL_QUERY.format(p=f"t{number}_", source=table, columns=names))
        for other, (joined, theirs) in enumerate(tables.items()):
            if joined == table:
                continue
            left = " | ".join(_quoted(f"{table}.{column}") for column in columns)
            right = " | ".join(_quoted(f"{joined}.{column}") for column in theirs)
            p = f"t{number}_{other}_"
            source = f'{table} JOIN {joined} ON " {p}left " = " {p}right "'
            rules.append(_SQL_QUERY.format(p=p, source=source, columns=f"{p}left | {p}right"))
            rules.append(f"{p}left: {left}\n{p}right: {right}")
    starts = [rule.strip().partition(":")[0] for rule in rules if "query:" in rule]
    return lark(f"start: {' | '.join(starts)}\n" + "\n".join(rules) + _SQL_TERMINALS)


def _free_yaml() -> str:
    """Mappings and lists of scalars, nested by indentation."""
    rules = []
    for depth in range(DEPTH):
        indent = "  " * depth
        nested = f' | KEY ":\\n" block{depth + 1} | KEY ":\\n" list{depth + 1}' if depth + 1 < DEPTH else ""
        rules.append(f'block{depth}: ("{indent}" pair{depth}){{1,50}}')
        rules.append(f'pair{depth}: KEY ": " scalar "\\n"{nested}')
        rules.append(f'list{depth}: ("{indent}- " scalar "\\n"){{1,50}}')
    return "\n".join(rules)


def _yaml_mapping(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int, rules: list[str]) -> str:
    """The rule for an object's properties in block style; optional ones may be left out."""
    required = set(schema.get("required", ()))
    parts = []
    for name, value in schema["properties"].items():
        key = name if _NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        begin = _quoted("  " * depth + key + ":")
        parts.append(f"({begin} {_yaml_value(value, defs, depth, rules)})" + ("" if name in required else "?"))
    if required - set(schema["properties"]):
        raise BadGrammar(f"{min(required - set(schema['properties']))!r} is required", "it is not among the properties")
    rules.append(f"map{len(rules)}: " + " ".join(parts))
    return f"map{len(rules) - 1}"


def _yaml_value(schema: Any, defs: Mapping[str, Any], depth: int, rules: list[str]) -> str:
    """What follows a key and its colon, up to the end of the line or block."""
    schema = _followed(schema, defs)
    plain = isinstance(schema, Mapping)
    if plain and schema.get("type") == "object" and schema.get("properties") and schema.get("required"):
        return f'"\\n" {_yaml_mapping(schema, defs, depth + 1, rules)}'
    if plain and schema.get("type") == "array" and "items" in schema and not {"prefixItems", "contains"} & set(schema):
        least, most = schema.get("minItems", 0), schema.get("maxItems", "")
        item = f'({_quoted("  " * (depth + 1) + "- ")} {_inline(schema["items"], defs)} "\\n")'
        some = f'"\\n" {item}{{{max(1, least)},{most}}}'
        return some if least else f'({some} | " []\\n")'
    return f'" " {_inline(schema, defs)} "\\n"'


def _inline(schema: Any, defs: Mapping[str, Any]) -> str:
    """A value in JSON's form."""
    schema = _followed(schema, defs)
    if not isinstance(schema, Mapping):
        schema = {} if schema else {"not": {}}
    constraints = {*schema} - {"title", "description", "default", "examples"}
    if schema.get("type") == "string" and constraints <= {"type", "minLength", "maxLength"}:
        return f'/"{_YAML_CHARACTER}{{{schema.get("minLength", 0)},{schema.get("maxLength", "")}}}"/'
    if schema.get("type") == "number" and constraints == {"type"}:
        return _YAML_NUMBER
    return "%json " + json.dumps({**schema, **({"$defs": defs} if defs else {})})


def _followed(schema: Any, defs: Mapping[str, Any]) -> Any:
    """What a lone reference into $defs means; other references are left to the JSON schema's compiler."""
    seen: set[str] = set()
    while isinstance(schema, Mapping) and set(schema) == {"$ref"} and schema["$ref"] not in seen:
        seen.add(schema["$ref"])
        name = schema["$ref"].removeprefix("#/$defs/")
        if name not in defs:
            break
        schema = defs[name]
    return schema


def _csv_cell(text: str) -> str:
    quoted = any(char in text for char in '",\n\r')
    return '"' + text.replace('"', '""') + '"' if quoted else text


def _quoted(text: str) -> str:
    """A string of the grammar."""
    return json.dumps(text, ensure_ascii=False)
