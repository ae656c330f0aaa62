"""Flags generated from configs: one `--field` per leaf, dotted for nested configs; checked by the config itself."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from cyclopts import Parameter
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from foundling.core.config import Config

_SIMPLE = (bool, int, float, str)


def flag_parameters(config: type[Config], prefix: str = "") -> dict[str, inspect.Parameter]:
    """Keyword-only parameters for every leaf field of a config, all optional: what is not given is not set."""
    parameters: dict[str, inspect.Parameter] = {}
    for name, info in config.model_fields.items():
        path = f"{prefix}{name}"
        nested = _nested(info.annotation)
        if nested is not None:
            parameters |= flag_parameters(nested, f"{path}.")
            continue
        kind = _flag_type(info.annotation)
        many = kind is not bool and get_origin(kind) is list
        parameter = Parameter(
            name=f"--{path.replace('_', '-')}",
            help=_help(info),
            consume_multiple=True if many else None,
            negative_iterable="",
            show_default=False,
        )
        identifier = path.replace(".", "__")
        annotation = Annotated[kind | None, parameter]  # type: ignore[valid-type]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters[identifier] = inspect.Parameter(identifier, keyword, default=None, annotation=annotation)
    return parameters


def config_data(config: type[Config], flags: dict[str, Any]) -> dict[str, Any]:
    """Nested plain data from the flags that were given, ready for `core.config.parse`."""
    data: dict[str, Any] = {}
    for identifier, value in flags.items():
        if value is None:
            continue
        current, (*parents, leaf) = data, identifier.split("__")
        for parent in parents:
            current = current.setdefault(parent, {})
        current[leaf] = _yaml_if_structured(config, identifier, value)
    return data


def with_parameters(function: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """`function(**flags)` with the signature that the command line should show."""
    signature = inspect.Signature(parameters)

    @functools.wraps(function)
    def command(*arguments: Any, **flags: Any) -> None:
        function(**signature.bind(*arguments, **flags).arguments)

    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _nested(annotation: Any) -> type[Config] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return typing.cast("type[Config]", candidate) if _is_one_config(annotation) else None
    return None


def _is_one_config(annotation: Any) -> bool:
    options = [a for a in (get_args(annotation) or (annotation,)) if a is not type(None)]
    return len(options) == 1 and get_origin(annotation) in (None, types.UnionType, typing.Union)


def _flag_type(annotation: Any) -> Any:
    options = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) in (types.UnionType, typing.Union) and len(options) == 1:
        return _flag_type(options[0])
    if get_origin(annotation) is Annotated:
        return _flag_type(options[0])
    if annotation in _SIMPLE or get_origin(annotation) is Literal:
        return annotation
    listed = get_origin(annotation) in (list, tuple) and bool(options)
    if listed and (options[0] in (str, int, float) or get_origin(options[0]) is Literal):
        return list[options[0]]  # type: ignore[valid-type]
    return str


def _yaml_if_structured(config: type[Config], identifier: str, value: Any) -> Any:
    """Fields of structured type (unions, mappings) are written as YAML on the command line."""
    current: Any = config
    *parents, leaf = identifier.split("__")
    for parent in parents:
        current = _nested(current.model_fields[parent].annotation)
    annotation = current.model_fields[leaf].annotation
    plain_text = {str, type(None)}.issuperset({annotation, *get_args(annotation)} - {str | None})
    if isinstance(value, str) and _flag_type(annotation) is str and not plain_text:
        return yaml.safe_load(value)
    return value


def _help(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    shown = "" if default in (PydanticUndefined, None, "", [], ()) else f" (default: {default})"
    return f"{info.description or ''}{shown}"
