"""Replies and stream messages as bytes, and back into the messages that `ask` returns.

Owns one writer per kind of reply. A writer trusts the program: it does not validate what a node emitted. What comes
back is told apart by media type alone, because a form does not travel with an outcome: a `Blob` always has one, JSON
has none, and in a union of classes JSON carries the class's name as a parameter (`application/json;type=Found`), which
an HTTP client may pass over.
"""

import re
from collections.abc import Sequence
from types import NoneType
from typing import Any, Protocol

import msgspec
from pydantic import TypeAdapter

from offloop.graph.kinds import kinds, name_of, parts, stripped
from offloop.graph.multipart import safe_filename, safe_media_type
from offloop.graph.payload_types import has_struct
from offloop.messages import Blob
from offloop.ports.codec import Encoded

JSON = "application/json"
OF_A_UNION = f"{JSON};type="
"""How the media type of JSON begins that is a message of one of several classes; the class's name follows."""
OCTETS = "application/octet-stream"


class Writer(Protocol):
    """Writes the messages of one type and reads them again. Thread-safe."""

    def encode(self, message: Any) -> Encoded:
        """Raises ValueError or TypeError where the message cannot be written."""

    def decode(self, encoded: Encoded) -> Any:
        """Raises ValueError where the bytes are no message of the type."""


def writer_for(annotation: Any) -> Writer:
    """The writer for a reply's or a stream's declared type; None is the reply of an endpoint that has none."""
    plain = stripped(annotation)
    if plain is NoneType:
        return NothingWriter()
    if len(members := [part for part in parts(annotation) if stripped(part) is not NoneType]) > 1:
        return UnionWriter(members)
    return _writer_of_one(members[0])


def _writer_of_one(annotation: Any) -> Writer:
    if stripped(annotation) is Blob:
        return BlobWriter()
    return StructWriter(annotation) if has_struct(annotation) else PydanticWriter(annotation)


class NothingWriter:
    """A reply that says only that the work is done."""

    def encode(self, message: Any) -> Encoded:
        return Encoded(b"", "none")

    def decode(self, encoded: Encoded) -> None:
        return None


class BlobWriter:
    """Bytes as they are. Without a media type of its own a Blob is `application/octet-stream`."""

    def encode(self, message: Any) -> Encoded:
        if message.media_type is not None and safe_media_type(message.media_type) is None:
            raise ValueError(f"a Blob's media type is like 'application/pdf', not {message.media_type!r}")
        return Encoded(message.data, "raw", message.media_type or OCTETS, safe_filename(message.filename))

    def decode(self, encoded: Encoded) -> Blob:
        return Blob(encoded.payload, encoded.media_type, encoded.filename)


class PydanticWriter:
    """JSON by pydantic, under the names of the serialization aliases, as FastAPI answers."""

    def __init__(self, annotation: Any) -> None:
        adapter = TypeAdapter(annotation)
        self._to_json = adapter.serializer.to_json
        self._validate_json = adapter.validator.validate_json

    def encode(self, message: Any) -> Encoded:
        return Encoded(self._to_json(message, by_alias=True))

    def decode(self, encoded: Encoded) -> Any:
        return self._validate_json(encoded.payload)


class StructWriter:
    """JSON by msgspec."""

    def __init__(self, annotation: Any) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(annotation).decode

    def encode(self, message: Any) -> Encoded:
        try:
            return Encoded(self._encode(message))
        except (OverflowError, RecursionError) as error:  # a number or a cycle that it does not write
            raise ValueError(str(error)) from error

    def decode(self, encoded: Encoded) -> Any:
        return self._decode(encoded.payload)


class UnionWriter:
    """Each class by its own writer, chosen by the message's exact class, and found again by the media type."""

    def __init__(self, members: Sequence[Any]) -> None:
        self._by_class: dict[type, tuple[Writer, str | None]] = {}
        self._by_media_type: dict[str, Writer] = {}
        for number, member in enumerate(members):
            writer = _writer_of_one(member)
            media_type = None
            if (cls := kinds(member)[0].cls) is not Blob:
                media_type = f"{OF_A_UNION}{_token(member)}"
                if media_type in self._by_media_type:  # two classes of one name
                    media_type += f"-{number}"
                self._by_media_type[media_type] = writer
            self._by_class[cls] = writer, media_type

    def encode(self, message: Any) -> Encoded:
        if (found := self._by_class.get(type(message))) is None:
            raise TypeError(f"{name_of(type(message))} is no class of the declared union")
        writer, media_type = found
        encoded = writer.encode(message)
        return encoded if media_type is None else Encoded(encoded.payload, "json", media_type)

    def decode(self, encoded: Encoded) -> Any:
        if (writer := self._by_media_type.get(encoded.media_type or "")) is not None:
            return writer.decode(encoded)
        if (blob := self._by_class.get(Blob)) is not None:
            return blob[0].decode(encoded)
        raise ValueError(f"{encoded.media_type} names no class of the declared union")


def _token(member: Any) -> str:
    """The class's name, as a parameter may be written (RFC 9110, section 5.6.2)."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name_of(stripped(member)).rpartition(">.")[2]).strip("-")
