"""Requests as bytes and text, in every form that an envelope can carry, and back into the messages that nodes take.

Owns one reader per kind of request. Here a caller's bytes become a message: whatever they are, a reader returns a
valid message or raises `InvalidPayload`. It never evaluates, never unpickles; nesting is bounded by the JSON parsers,
size by whoever took the bytes in.

The JSON text decides what is valid. Errors are then worded the way FastAPI words them, which validates the parsed
document and not the text of it.
"""

from typing import Any, Protocol

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from offloop.errors import InvalidPayload
from offloop.graph.kinds import kinds, name_of, stripped
from offloop.graph.multipart import Part, parts_of, safe_filename
from offloop.graph.payload_errors import (
    Errors,
    invalid,
    listed,
    missing,
    not_an_object,
    not_json,
    not_text,
    unreadable,
    within,
)
from offloop.graph.payload_fields import fields_of
from offloop.graph.payload_structs import StructReader
from offloop.graph.payload_texts import Gathered, Home, Texts
from offloop.graph.payload_types import has_secret, has_struct
from offloop.messages import Blob, Envelope
from offloop.ports.codec import Encoded

_MASKED = b'"**********"'


class Reader(Protocol):
    """Reads the requests of one endpoint, and writes those of `ask`. Thread-safe."""

    def decode(self, envelope: Envelope) -> Any:
        """Raises InvalidPayload."""

    def encode(self, message: Any) -> Encoded:
        """Raises TypeError where the message is not of the type."""


def reader_for(annotation: Any) -> Reader:
    """The reader for a request's declared type."""
    if stripped(annotation) is Blob:
        return BlobReader()
    return StructReader(annotation) if has_struct(annotation) else PydanticReader(annotation)


class BlobReader:
    """A request that is a body's bytes as they came."""

    def decode(self, envelope: Envelope) -> Blob:
        if envelope.form != "raw":
            raise invalid(unreadable(envelope.form))
        return Blob(envelope.payload, envelope.media_type, safe_filename(envelope.filename))

    def encode(self, message: Any) -> Encoded:
        if type(message) is not Blob:
            raise TypeError(f"the message is a {name_of(type(message))}, not a Blob")
        return Encoded(message.data, "raw", message.media_type, message.filename)


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """A message of `ask`: its JSON under the fields' own names, and beside it the Blobs, by field."""

    document: bytes
    blobs: dict[str, Blob] = {}


class PydanticReader:
    """A request that pydantic validates: a model, a dataclass, or builtins and containers of them."""

    def __init__(self, annotation: Any) -> None:
        adapter = TypeAdapter(annotation)
        fields = fields_of(annotation) or ()
        self._annotation = annotation
        classes = tuple(kind.cls for kind in kinds(annotation))
        self._classes = (*classes, int) if float in classes else classes  # an int is as good as a float
        self._validate_json = adapter.validator.validate_json
        self._validate_python = adapter.validator.validate_python
        self._to_json = adapter.serializer.to_json
        self._texts = Texts(fields)
        self._blobs = {field.name: field.names[0] for field in fields if field.blob and field.names}
        self._apart = set(self._blobs) or None
        self._secret = has_secret(annotation)
        self._pack = msgspec.msgpack.Encoder(order="deterministic").encode
        self._unpack = msgspec.msgpack.Decoder(_Packed).decode

    def decode(self, envelope: Envelope) -> Any:
        match envelope.form:
            case "json" if not envelope.fields:
                try:
                    return self._validate_json(envelope.payload)
                except ValidationError as error:
                    raise self._worded(envelope.payload, error) from None
            case "json":
                return self._merged(envelope)
            case "none":
                return self._from_texts(self._texts.gather(envelope.fields), "query")
            case "raw" if len(self._blobs) == 1:
                return self._from_raw(envelope)
            case "multipart" if self._blobs:
                return self._from_form(envelope)
            case "packed":
                return self._from_packed(envelope.payload)
        raise invalid(unreadable(envelope.form))

    def encode(self, message: Any) -> Encoded:
        if not isinstance(message, self._classes):
            raise TypeError(f"the message is a {name_of(type(message))}, not {name_of(stripped(self._annotation))}")
        try:
            document = self._to_json(message, exclude=self._apart, by_alias=False, round_trip=True, warnings="error")
        except PydanticSerializationError as error:
            raise TypeError(f"the message cannot be sent as {name_of(stripped(self._annotation))}: {error}") from error
        if self._secret and _MASKED in document:
            raise TypeError(
                "a secret in the message would be masked on its way: give the field a serializer "
                "(pydantic.field_serializer with when_used='json') that writes its value"
            )
        blobs = {name: blob for name in self._blobs if (blob := getattr(message, name)) is not None}
        return Encoded(self._pack(_Packed(document, blobs)), "packed")

    def _worded(self, payload: bytes, error: ValidationError) -> InvalidPayload:
        """As FastAPI words it, if its way of validating finds the same faults in the same places."""
        errors = listed(error)
        if errors[0]["type"] == "json_invalid" and not errors[0]["loc"]:
            return invalid(not_json(payload))
        if errors[0]["type"] == "too_many_errors":
            return invalid(within(("body",), errors))
        try:
            self._validate_python(from_json(payload), from_attributes=True)
        except ValidationError as other:
            worded = listed(other)
            if {found["loc"] for found in worded} == {found["loc"] for found in errors}:
                errors = worded
        return invalid(within(("body",), errors))

    def _merged(self, envelope: Envelope) -> Any:
        texts = self._texts.gather(envelope.fields, query=False)
        try:
            body = from_json(envelope.payload)
        except ValueError:
            if envelope.payload:
                raise invalid(not_json(envelope.payload)) from None
            return self._over_body(texts, {}, [missing("body")])
        if not isinstance(body, dict):
            return self._over_body(texts, {}, [not_an_object(body)])
        return self._over_body(texts, body, [])

    def _over_body(self, texts: Gathered, body: dict[str, Any], faults: Errors) -> Any:
        """The message; `faults` are errors that are known already, of the body as a whole."""
        merged = texts.over(body)
        wrong: Errors = []
        try:
            message = self._validate_python(merged, from_attributes=True)  # as FastAPI does; it only words errors
            if not faults:
                return message
        except ValidationError as error:
            wrong = texts.place(listed(error), "body", merged=merged, body=body)
        if faults:  # then only what is wrong in the path is news
            wrong = [error for error in wrong if error["loc"][0] == "path"] + faults
        raise invalid(wrong)

    def _from_texts(self, texts: Gathered, home: Home) -> Any:
        """All text, and so never strict: there is no other way to write a number in a query."""
        try:
            return self._validate_python(texts.values, strict=False)
        except ValidationError as error:
            raise invalid(texts.place(listed(error), home, merged=texts.values)) from None

    def _from_raw(self, envelope: Envelope) -> Any:
        texts = self._texts.gather(envelope.fields)
        (name,) = self._blobs.values()
        texts.values[name] = Blob(envelope.payload, envelope.media_type, safe_filename(envelope.filename))
        return self._from_texts(texts, "query")

    def _from_form(self, envelope: Envelope) -> Any:
        parts = [(part.name, self._value(part)) for part in parts_of(envelope.media_type, envelope.payload)]
        given = [(name, value) for name, value in parts if value is not None]
        return self._from_texts(self._texts.gather(envelope.fields, query=False, parts=given), "body")

    def _value(self, part: Part) -> str | Blob | None:
        """What a part means to its field; None where a browser sent an empty input, which is none (as in FastAPI)."""
        if not part.data and not part.filename:
            return None
        field = self._texts.field(part.name)
        if part.filename is not None or (field is not None and field.blob):
            return Blob(part.data, part.media_type, safe_filename(part.filename))
        try:
            return part.data.decode("utf-8")
        except UnicodeDecodeError:
            raise invalid([not_text(part.name)]) from None

    def _from_packed(self, payload: bytes) -> Any:
        try:
            packed = self._unpack(payload)
            if not packed.blobs:
                return self._validate_json(packed.document, by_alias=False, by_name=True)
            document = from_json(packed.document)
        except ValidationError as error:
            raise invalid(within(("body",), listed(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            raise invalid(unreadable("packed")) from None
        if not isinstance(document, dict) or not packed.blobs.keys() <= self._blobs.keys():
            raise invalid(unreadable("packed"))
        try:
            return self._validate_python({**document, **packed.blobs}, strict=False, by_alias=False, by_name=True)
        except ValidationError as error:
            raise invalid(within(("body",), listed(error))) from None
