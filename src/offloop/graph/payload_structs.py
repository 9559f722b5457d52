"""Requests that are msgspec Structs, by msgspec's own decoder.

Owns the translation of msgspec's one error, a sentence with a path in it, into FastAPI's list.
"""

import re
from typing import Any

import msgspec
from pydantic_core import from_json

from offloop.graph.kinds import kinds, name_of, stripped
from offloop.graph.payload_errors import Errors, invalid, missing, not_an_object, not_json, unreadable, within
from offloop.graph.payload_fields import fields_of
from offloop.graph.payload_texts import Gathered, Home, Texts
from offloop.messages import Envelope
from offloop.ports.codec import Encoded

_STEP = re.compile(r"\.([^.\[`]+)|\[(\d+)\]|(\[\.\.\.\])")
_LACKS = re.compile(r"Object missing required field `(.+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")


class StructReader:
    """Reads a Struct, or a container of them. Strict as msgspec is; only what comes as text is converted."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._classes = tuple(kind.cls for kind in kinds(annotation))
        self._decode = msgspec.json.Decoder(annotation).decode
        self._encode = msgspec.json.Encoder().encode
        self._texts = Texts(fields_of(annotation) or ())

    def decode(self, envelope: Envelope) -> Any:
        if envelope.form == "json":
            return self._merged(envelope) if envelope.fields else self._json(envelope.payload)
        if envelope.form == "none":
            return self._converted(self._texts.gather(envelope.fields), "query", {}, [])
        raise invalid(unreadable(envelope.form))

    def encode(self, message: Any) -> Encoded:
        if type(message) not in self._classes:
            raise TypeError(f"the message is a {name_of(type(message))}, not {name_of(stripped(self._annotation))}")
        return Encoded(self._encode(message))

    def _json(self, payload: bytes) -> Any:
        try:
            return self._decode(payload)
        except msgspec.ValidationError as error:
            errors = within(("body",), [described(error, _parsed(payload))])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            errors = not_json(payload)
        raise invalid(errors)

    def _merged(self, envelope: Envelope) -> Any:
        texts = self._texts.gather(envelope.fields, query=False)
        try:
            body = from_json(envelope.payload, allow_inf_nan=False)
        except ValueError:
            if envelope.payload:
                raise invalid(not_json(envelope.payload)) from None
            return self._converted(texts, "body", {}, [missing("body")])
        if not isinstance(body, dict):
            return self._converted(texts, "body", {}, [not_an_object(body)])
        return self._converted(texts, "body", body, [])

    def _converted(self, texts: Gathered, home: Home, body: dict[str, Any], faults: Errors) -> Any:
        """The message; `faults` are errors that are known already, of the body as a whole."""
        wrong: Errors = []
        for name, text in texts.values.items():
            field = self._texts.field(name)
            try:
                texts.values[name] = msgspec.convert(text, field.annotation if field else Any, strict=False)
            except msgspec.ValidationError as error:
                wrong += within((name,), [described(error, text)])
        wrong = texts.place(wrong, home, merged=None)
        if not wrong and not faults:
            merged = texts.over(body)
            try:
                return msgspec.convert(merged, self._annotation, str_keys=True)
            except msgspec.ValidationError as error:
                wrong = texts.place([described(error, merged)], home, merged=merged, body=body)
        raise invalid(wrong + faults)


def described(error: msgspec.ValidationError, document: Any) -> dict[str, Any]:
    """One error in the shape of FastAPI's: type, place, message, and what was there."""
    message, _, place = str(error).partition(" - at `")
    loc: list[str | int] = []
    found = document
    for name, number, unknown in _STEP.findall(place.rpartition("$")[2]):
        if unknown:  # some value of a mapping; msgspec does not say which
            break
        step = name or int(number)
        try:
            found = found[step]
        except (LookupError, TypeError):
            found = None
        loc.append(step)
    if lacks := _LACKS.fullmatch(message):
        return missing(*loc, lacks[1], given=found)
    if unknown := _UNKNOWN.fullmatch(message):
        given = found.get(unknown[1]) if isinstance(found, dict) else None
        msg = "Extra inputs are not permitted"
        return {"type": "extra_forbidden", "loc": (*loc, unknown[1]), "msg": msg, "input": given}
    return {"type": "validation_error", "loc": tuple(loc), "msg": message, "input": found}


def _parsed(payload: bytes) -> Any:
    try:
        return from_json(payload)
    except ValueError:  # msgspec does not look into what it has no use for
        return None
