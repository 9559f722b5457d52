"""Which types travel, and by which of the two libraries each is written.

Owns the rules of what may be a request, a reply or a stream message, and the texts that say why something may not. It
builds a type's schema once to ask; it keeps none, and encodes nothing.

A tree of types is written by one library: msgspec if a Struct is anywhere in it, else pydantic. Mixed trees are
refused, because each library would read the other's classes loosely or not at all.
"""

import dataclasses
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints, is_typeddict

import msgspec
from pydantic import BaseModel, Secret, SecretBytes, SecretStr, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from offloop.graph.kinds import name_of, parts, stripped, telling
from offloop.graph.payload_fields import fields_of
from offloop.messages import Blob


class QuietJsonSchema(GenerateJsonSchema):
    """Says nothing of a default that JSON cannot show: such a field is described without it."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  (as the parent has it)


def travels(annotation: Any, *, reply: bool = False) -> str | None:
    """Why messages of a type cannot travel, with the remedy; None if they can.

    Args:
        annotation: the type of a request, a reply or a stream message, unions and `Annotated` included.
        reply: whether it is a reply's or a stream message's. A `Blob` is one on its own; as a field of a model it can
            be part of a request only. None can be a reply only.
    """
    return next(_faults(annotation, reply=reply), None)


def has_struct(annotation: Any) -> bool:
    """Whether msgspec writes the type."""
    return any(_is_a(found.plain, msgspec.Struct) for found in _walk(annotation))


def has_secret(annotation: Any) -> bool:
    """Whether some of the type's values are masked when they are written."""
    return any(_is_a(found.plain, (Secret, SecretStr, SecretBytes)) for found in _walk(annotation))


class _Found(NamedTuple):
    """A type somewhere in another; `where` is the field that holds it, empty outside of all fields."""

    plain: Any
    where: str
    marks: tuple[Any, ...]


def _walk(annotation: Any, where: str = "", seen: set[Any] | None = None) -> Iterator[_Found]:
    seen = set() if seen is None else seen
    plain = stripped(annotation)
    yield _Found(plain, where, get_args(annotation)[1:] if get_origin(annotation) is Annotated else ())
    if get_origin(plain) is Literal:
        return
    for argument in get_args(plain):
        yield from _walk(argument, where, seen)
    cls = get_origin(plain) or plain
    if not isinstance(cls, type) or cls is Blob or plain in seen:
        return
    seen.add(plain)
    for name, inner in _annotations_of(plain, cls):
        yield from _walk(inner, f"{name_of(plain)}.{name}", seen)


def _annotations_of(plain: Any, cls: type) -> Iterator[tuple[str, Any]]:
    if issubclass(cls, msgspec.Struct):
        yield from ((field.name, field.type) for field in msgspec.structs.fields(plain))
    elif issubclass(cls, BaseModel):
        yield from ((name, info.annotation) for name, info in cls.model_fields.items())
    elif dataclasses.is_dataclass(cls) or is_typeddict(cls):
        yield from get_type_hints(cls, include_extras=True).items()


def _faults(annotation: Any, *, reply: bool) -> Iterator[str]:
    plain = stripped(annotation)
    if plain is Blob:
        return
    if plain is NoneType:
        if not reply:
            yield "None cannot be a request, there is nothing in it. Take a model without fields"
        return
    try:
        yield from _faults_of_place(annotation, reply=reply)
        if isinstance(reason := telling(annotation), str):
            yield reason
        for tree in parts(annotation) if reply else (annotation,):
            yield from _faults_of_tree(tree, reply=reply)
    except NameError as error:
        yield f"{name_of(plain)} names a class that is not defined: {error}. Define it in the same module"


def _faults_of_place(annotation: Any, *, reply: bool) -> Iterator[str]:
    """Blobs and bare bytes where they cannot be."""
    allowed: set[str] = set()
    if reply:
        roots = [part for part in parts(annotation) if stripped(part) is not Blob]
    else:
        roots = [annotation]
        owner = name_of(stripped(annotation))
        allowed = {f"{owner}.{field.name}" for field in fields_of(annotation) or () if field.blob}
    for root in roots:
        for found in _walk(root):
            if found.plain is Blob and found.where not in allowed:
                yield _misplaced_blob(found.where or name_of(stripped(root)), reply=reply)
            elif found.plain in (bytes, bytearray, memoryview) and not found.where:
                yield f"{name_of(found.plain)} has no form in JSON. Make it a Blob, or base64 text in a model"


def _misplaced_blob(where: str, *, reply: bool) -> str:
    if reply:
        return (
            f"{where} has a Blob inside: a reply is JSON, or it is a Blob. Reply with the Blob alone (it has a media "
            f"type and a file name), or make the field base64 text (pydantic.Base64Bytes)"
        )
    return (
        f"{where} has a Blob inside: a Blob is a request on its own, or a field of the request's own model. "
        f"Make it such a field, or base64 text (pydantic.Base64Bytes)"
    )


def _faults_of_tree(annotation: Any, *, reply: bool) -> Iterator[str]:
    """What the library that is to write the tree says of it."""
    plain = stripped(annotation)
    if plain is Blob:
        return
    if has_struct(annotation):
        yield from _faults_of_msgspec(annotation)
        return
    try:
        TypeAdapter(annotation).json_schema(
            mode="serialization" if reply else "validation", schema_generator=QuietJsonSchema
        )
    except (PydanticUserError, TypeError) as error:
        yield (
            f"{name_of(plain)} cannot travel: {_first_line(error)} Messages are pydantic models, dataclasses, msgspec "
            f"Structs, Blob, or builtins and containers of them; a type of one's own needs a serializer and a JSON "
            f"schema (pydantic.PlainSerializer, pydantic.WithJsonSchema)"
        )


def _faults_of_msgspec(annotation: Any) -> Iterator[str]:
    name = name_of(stripped(annotation))
    for found in _walk(annotation):
        if _is_a(found.plain, BaseModel):
            yield (
                f"{name} mixes a msgspec Struct with the pydantic model {name_of(found.plain)}: one library must write "
                f"the whole. Make both the same kind"
            )
        elif found.plain is Blob:
            yield f"{name} is a msgspec Struct with a Blob: use a pydantic model or a dataclass for it"
        elif any(type(mark).__module__.partition(".")[0] in ("pydantic", "annotated_types") for mark in found.marks):
            yield f"{name} has constraints that msgspec passes over. Write them as msgspec.Meta(…)"
    try:
        msgspec.json.Decoder(annotation)
        msgspec.json.schema(annotation)
    except TypeError as error:
        yield f"{name} cannot travel: {_first_line(error)} Keep to what msgspec writes as JSON"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0].rstrip(".:") + "."


def _is_a(plain: Any, classes: type | tuple[type, ...]) -> bool:
    cls = get_origin(plain) or plain
    return isinstance(cls, type) and issubclass(cls, classes)
