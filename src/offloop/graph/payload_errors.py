"""What is wrong with a payload, as the list that FastAPI answers: `{type, loc, msg, input}`, fit for JSON.

Owns the wording and the bounds of such lists, and their form on the wire. It does not validate, and no list it makes
holds more than a bounded part of what a caller sent.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from offloop.errors import InvalidPayload
from offloop.messages import Blob

Errors = list[dict[str, Any]]

MAX_ERRORS = 1000
"""A payload with more errors than this gets one error that says how many."""

MAX_TEXT = 65_536
"""About how many characters and values of the caller's a whole list repeats; beyond them it is cut with an ellipsis."""


def errors_json(errors: Errors) -> bytes:
    """The list as it travels. Takes any list of errors in the shape of pydantic's; the bytes are UTF-8 JSON."""
    return json.dumps(presentable(errors), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def errors_from_json(payload: bytes) -> Errors:
    """The list that `errors_json` wrote."""
    errors: Errors = json.loads(payload)
    return errors


def invalid(errors: Iterable[dict[str, Any]]) -> InvalidPayload:
    """The exception to raise."""
    return InvalidPayload(presentable(errors))


def missing(*loc: str | int, given: Any = None) -> dict[str, Any]:
    """What FastAPI says of a field, or a whole body, that is not there."""
    return {"type": "missing", "loc": loc, "msg": "Field required", "input": given}


def not_json(payload: bytes) -> Errors:
    """What FastAPI says of a body that is no JSON; where the body is empty, that it is missing."""
    if not payload:
        return [missing("body")]
    position, reason = _fault_in_json(payload)
    return [
        {
            "type": "json_invalid",
            "loc": ("body", position),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": reason},
        }
    ]


def not_an_object(body: Any) -> dict[str, Any]:
    """What FastAPI says of a JSON body that is no object where fields are to be taken from it."""
    return {
        "type": "model_attributes_type",
        "loc": ("body",),
        "msg": "Input should be a valid dictionary or object to extract fields from",
        "input": body,
    }


def malformed_form(reason: str) -> Errors:
    """A multipart body, or its boundary, that cannot be read. FastAPI has no such error; the shape is the same."""
    return [
        {
            "type": "multipart_invalid",
            "loc": ("body",),
            "msg": "Multipart decode error",
            "input": None,
            "ctx": {"error": reason},
        }
    ]


def not_text(name: str) -> dict[str, Any]:
    """What pydantic says of bytes that should be text; here those of a form's part."""
    msg = "Input should be a valid string, unable to parse raw data as a unicode string"
    return {"type": "string_unicode", "loc": ("body", name), "msg": msg, "input": None}


def unreadable(form: str) -> Errors:
    """A payload in a form that this endpoint's type has no use for."""
    msg = f"A payload in the form '{form}' cannot be read here"
    return [{"type": "form_invalid", "loc": ("body",), "msg": msg, "input": None}]


def listed(error: ValidationError) -> Errors:
    """Pydantic's errors without addresses of its documentation; one error for more than a list can hold."""
    if (count := error.error_count()) > MAX_ERRORS:
        return [{"type": "too_many_errors", "loc": (), "msg": f"The payload has {count} errors", "input": None}]
    return [dict(found) for found in error.errors(include_url=False)]


def within(place: Sequence[str | int], errors: Errors) -> Errors:
    """The same errors, below a place."""
    return [{**error, "loc": (*place, *error["loc"])} for error in errors]


def presentable(errors: Iterable[dict[str, Any]]) -> Errors:
    """Plain JSON values only, exceptions and bytes turned into text, and no more than a bounded part of the payload."""
    writer = _Writer(MAX_TEXT)
    shown: Errors = []
    for error in errors:
        shown.append({key: writer.plain(value) for key, value in error.items()})
        if writer.left < 0:
            break
    return shown


CONTAINERS = (dict, list, tuple, set, frozenset)


class _Writer:
    """Makes values plain until it has written as much as it may; from then on each is an ellipsis, or empty."""

    def __init__(self, most: int) -> None:
        self.left = most

    def plain(self, value: Any) -> Any:
        self.left -= 1
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool):
            return value
        if self.left < 0 and not isinstance(value, CONTAINERS):  # those stay what readers take them for
            return "…"
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, bytes):
            return self._text(value.decode("utf-8", "replace"))
        if isinstance(value, Blob):
            return self.plain({"filename": value.filename, "media_type": value.media_type, "size": len(value.data)})
        return self._many(value)

    def _many(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._text(str(key)): self.plain(item) for key, item in self._while_any_left(value.items())}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.plain(item) for item in self._while_any_left(value)]
        return self._text(str(value))

    def _while_any_left(self, items: Iterable[Any]) -> Iterable[Any]:
        for item in items:
            if self.left < 0:
                return
            yield item

    def _text(self, value: str) -> str:
        shown = value if len(value) <= max(self.left, 100) else value[: max(self.left, 100)] + "…"
        self.left -= len(shown)
        return shown.encode("utf-8", "replace").decode()  # a lone surrogate has no bytes

    def _integer(self, value: int) -> Any:
        if value.bit_length() <= 64:
            return value
        self.left -= value.bit_length() // 3
        return value if value.bit_length() < 10_000 else "…"  # Python refuses to write more than 4,300 digits


def _fault_in_json(payload: bytes) -> tuple[int, str]:
    """Position and reason, in the words of the parser that FastAPI uses as far as it finds the fault too."""
    try:
        json.loads(payload.decode("utf-8"))
    except json.JSONDecodeError as error:
        return error.pos, error.msg
    except UnicodeDecodeError as error:
        return error.start, "Invalid UTF-8"
    except (ValueError, RecursionError):
        pass  # more digits or deeper than that parser takes: the other one says where
    try:
        from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        reason, _, place = str(error).rpartition(" at line ")
        line, _, column = place.partition(" column ")
        return _offset(payload, int(line), int(column)), reason
    return 0, "Invalid JSON"


def _offset(payload: bytes, line: int, column: int) -> int:
    lines = payload.split(b"\n", line)
    return sum(len(before) + 1 for before in lines[: line - 1]) + max(column - 1, 0)
