"""JSON schemas of the program's types, each whole in itself.

Owns the one way from a type to a schema without references, for those places of an OpenAPI document where FastAPI
makes no component of it. Nothing is decoded or validated here.
"""

from typing import Any, Literal

import msgspec
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError

Schema = dict[str, Any]


def schema_of(annotation: Any, mode: Literal["validation", "serialization"] = "validation") -> Schema:
    """The schema of any type that travels; what refers to itself is cut at its second occurrence."""
    if known_to_pydantic(annotation):
        schema = TypeAdapter(annotation).json_schema(mode=mode)
    else:
        schema = msgspec.json.schema(annotation)
    definitions = schema.pop("$defs", {})
    whole = _inlined(schema, definitions, ())
    assert isinstance(whole, dict)
    return whole


def known_to_pydantic(annotation: Any) -> bool:
    """Whether FastAPI can describe it by itself; msgspec's Structs, and what holds them, it cannot."""
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return False
    return True


def _inlined(part: Any, definitions: Schema, within: tuple[str, ...]) -> Any:
    if isinstance(part, list):
        return [_inlined(item, definitions, within) for item in part]
    if not isinstance(part, dict):
        return part
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        name = reference.removeprefix("#/$defs/")
        if name in within:
            return {}
        beside = {key: value for key, value in part.items() if key != "$ref"}
        return _inlined(definitions[name] | beside, definitions, (*within, name))
    return {key: _inlined(value, definitions, within) for key, value in part.items()}
