"""`response_format`: what an answer must look like, as the engine's grammar."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from foundling.core.errors import FoundlingError
from foundling.serving.errors import refused
from foundling.serving.requests import ResponseFormat

if TYPE_CHECKING:
    from foundling.inference.structured.grammar import Grammar
    from foundling.serving.service import Service

MAX_SCHEMA = 65_536  # characters: compiled in less than a second


async def grammar_of(service: Service, wanted: ResponseFormat | None) -> Grammar | None:
    """The grammar of a response format; None for plain text.

    Raises:
        ApiError: the schema is missing, or uses what constrained decoding cannot hold it to (named).
    """
    if wanted is None or wanted.type == "text":
        if wanted is not None and wanted.json_schema is not None:
            raise refused("response_format.json_schema", 'json_schema needs type: "json_schema"')
        return None
    from foundling.inference.structured.grammar import any_json

    if wanted.type == "json_object":
        return any_json()
    if wanted.json_schema is None:
        raise refused("response_format.json_schema", "type json_schema needs json_schema: {name, schema}")
    return await schema_grammar(service, wanted.json_schema.body, "response_format.json_schema.schema")


async def schema_grammar(service: Service, schema: dict[str, Any], param: str) -> Grammar:
    """The grammar of a JSON Schema; compiled in another thread, so that a large one delays nobody.

    Raises:
        ApiError: naming `param` and what is wrong with the schema.
    """
    from foundling.inference.structured.grammar import json_schema

    size = len(json.dumps(schema))
    if size > MAX_SCHEMA:
        raise refused(param, f"the schema has {size} characters; at most {MAX_SCHEMA} are compiled here")
    try:
        return await service.aside(json_schema, schema)
    except FoundlingError as error:
        raise refused(param, str(error)) from None
