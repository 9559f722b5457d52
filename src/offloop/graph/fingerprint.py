"""What an endpoint's messages look like, as a few letters: two processes that agree on them can work for each other.

Owns what counts. A change of what is done with a message is none of it; a change of what is in one, or of how large it
may be, is: a worker takes nothing that is larger than it knows.
"""

import json
from hashlib import sha256
from typing import Any

import msgspec
from pydantic import TypeAdapter

from offloop.graph.endpoint import Endpoint
from offloop.graph.payload_types import QuietJsonSchema, has_struct


def fingerprint(endpoint: Endpoint[Any, Any]) -> str:
    """Sixteen hexadecimal digits, the same in every process that has the same messages under the same name."""
    said = [
        endpoint.name,
        _schema(endpoint.request, reply=False),
        _schema(endpoint.reply, reply=True),
        _schema(endpoint.stream, reply=True),
        endpoint.max_body,
    ]
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _schema(annotation: Any, *, reply: bool) -> Any:
    if annotation is None:
        return None
    if has_struct(annotation):
        return msgspec.json.schema(annotation)
    return TypeAdapter(annotation).json_schema(
        mode="serialization" if reply else "validation", schema_generator=QuietJsonSchema
    )
