"""Jinja templates and expressions over the fields of a row, with mistakes named by file and line."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from foundling.core.errors import FoundlingError, nearest
from foundling.evaluation.rows import Row


def render(template: str, row: Row, **more: str) -> str:
    """A Jinja template over a row's fields. Raises FoundlingError naming the row and the missing column."""
    try:
        return _template(template).render(**{**row.fields, **more}, row=row.fields)
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        raise _failed(f"the template {_short(template)}", row, error) from None


def evaluate(expression: str, row: Row) -> Any:
    """A Jinja expression over a row's fields, as a Python value. Raises FoundlingError like `render`."""
    try:
        value = _expression(expression)(**row.fields, row=row.fields)
        if isinstance(value, StrictUndefined):
            str(value)  # raises, naming the column
        return value
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        raise _failed(f"the expression {_short(expression)}", row, error) from None


def _failed(what: str, row: Row, error: Exception) -> FoundlingError:
    missing = re.fullmatch(r"'(\w+)' is undefined", str(error))
    if missing is None:
        return FoundlingError(f"{row.where}: {what} fails", str(error))
    why = nearest(missing[1], row.fields) or f"it has {', '.join(row.fields)}"
    return FoundlingError(f"{row.where} has no column {missing[1]!r}, which {what} needs", why)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = lambda text, pattern, new: re.sub(pattern, new, text)
    environment.filters["semicolons"] = lambda text: [part.strip() for part in text.split(";") if part.strip()]
    environment.filters["wikihow"] = _without_wikihow_marks
    return environment


def _without_wikihow_marks(text: str) -> str:
    """HellaSwag's clean-up of its WikiHow half, as lm-eval does it."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


@lru_cache(maxsize=256)
def _template(source: str) -> Any:
    return _environment().from_string(source)


@lru_cache(maxsize=256)
def _expression(source: str) -> Any:
    return _environment().compile_expression(source, undefined_to_none=False)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
