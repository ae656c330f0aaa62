"""Typed configuration: every field described, unknown keys refused with the nearest valid one.

A config is a frozen pydantic model. A field that cannot change the result (worker counts, logging) is marked
`affects_result=False` and stays out of the artifact's key.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticUndefined

from foundling.core.errors import FoundlingError, nearest


class Config(BaseModel):
    """Base of all configs: frozen, and refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


C = TypeVar("C", bound=Config)


def option(default: Any = PydanticUndefined, help: str = "", *, affects_result: bool = True, **constraints: Any) -> Any:
    """A described config field. `constraints` are pydantic's (ge, le, gt, min_length, ...).

    Args:
        default: the value if none is given; left out, the field is required. A mutable default is copied.
        help: one line for `--help` and the docs.
        affects_result: False for fields that change how the work is done but not what comes out.
    """
    return Field(default, description=help, json_schema_extra={"affects_result": affects_result}, **constraints)


def parse(config: type[C], data: dict[str, Any], where: str) -> C:
    """Build `config` from plain data.

    Args:
        where: what the data is, for messages: "stage 'sft'", "recipe quickstart.yaml".

    Raises:
        FoundlingError: naming the field, its value, what was expected and the nearest valid choice.
    """
    try:
        return config.model_validate(data)
    except ValidationError as error:
        raise FoundlingError(*_explain(config, error, where)) from None


def identity(config: BaseModel) -> dict[str, Any]:
    """The part of a config that determines the result, as plain JSON data."""
    out: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("affects_result") is False:
            continue
        out[name] = _identity_value(getattr(config, name))
    return out


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spaces: what is hashed."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _identity_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, dict):
        return {str(key): _identity_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity_value(item) for item in value]
    return value


def _explain(config: type[BaseModel], error: ValidationError, where: str) -> tuple[str, str, str]:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    field = ".".join(path) or "the value"
    if first["type"] == "extra_forbidden":
        options = _fields_at(config, path[:-1])
        hint = nearest(path[-1], options)
        return f"{where}: unknown field '{field}'", hint, f"Valid fields: {', '.join(sorted(options))}"
    if first["type"] == "missing":
        return f"{where}: field '{field}' is missing", _describe(config, path), ""
    message = str(first["msg"]).removeprefix("Value error, ")
    if not path:  # a rule about several fields, which it names
        return f"{where}: {message}", "", ""
    if first["type"] == "literal_error":
        options = str(first["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        message = "; ".join(part for part in (message, nearest(str(first["input"]), options)) if part)
    return f"{where}: field '{field}' is {first['input']!r}", message, _describe(config, path)


def _fields_at(config: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = config
    for part in path:
        info = getattr(current, "model_fields", {}).get(part)
        nested = [t for t in _types_of(info.annotation) if issubclass(t, BaseModel)] if info else []
        if nested:
            current = nested[0]
    return list(current.model_fields)


def _types_of(annotation: Any) -> list[type]:
    arguments = getattr(annotation, "__args__", ())
    found = [annotation] if isinstance(annotation, type) else []
    for argument in arguments:
        found.extend(_types_of(argument))
    return found


def _describe(config: type[BaseModel], path: list[str]) -> str:
    info = config.model_fields.get(path[0]) if path else None
    return f"it is: {info.description}" if info and info.description else ""
