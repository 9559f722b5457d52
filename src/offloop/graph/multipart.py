"""A multipart form as it came, taken apart (RFC 7578).

Owns the bounds on parts and their headers, and what a file name may be. What the parts mean to a request's type is
not known here; nothing is written to disk.
"""

import re
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from offloop.graph.payload_errors import invalid, malformed_form

MAX_PARTS = 1000
"""A form with more parts is refused, however small they are."""

MAX_HEADER_BYTES = 8192
"""Of one part's headers together, names and values."""

MAX_FILENAME = 255
"""Characters of a file name that are kept; what most file systems take."""

_MEDIA_TYPE = re.compile(r"[!-~]+/[ -~]+")


class Part(NamedTuple):
    """One part of a form. `filename` is None where it is no file, and empty where a browser sent no file."""

    name: str
    data: bytes
    media_type: str | None
    filename: str | None


def parts_of(content_type: str | None, body: bytes) -> list[Part]:
    """A form's parts in their order.

    Args:
        content_type: the body's Content-Type, with the boundary among its parameters.
        body: the whole body.

    Raises:
        InvalidPayload: there is no boundary, the form is malformed or ends early, a part has no name, or a bound is
            exceeded.
    """
    form = _Form()
    try:
        parser = MultipartParser(_boundary(content_type), {
            "on_part_begin": form.begin,
            "on_part_data": form.data,
            "on_part_end": form.end_part,
            "on_header_field": form.header_name,
            "on_header_value": form.header_value,
            "on_header_end": form.end_header,
            "on_headers_finished": form.end_headers,
            "on_end": form.end,
        })  # fmt: skip
        parser.write(body)
    except FormParserError as error:
        raise invalid(malformed_form(str(error))) from None
    if not form.ended:
        raise invalid(malformed_form("The form ends before its last boundary"))
    return form.parts


def safe_filename(name: str | None) -> str | None:
    """The name alone: no folders of any system, nothing that cannot be printed. None where nothing is left."""
    if name is None:
        return None
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(character for character in last if character.isprintable()).strip()[:MAX_FILENAME]
    return None if kept in ("", ".", "..") else kept


def safe_media_type(media_type: str | None) -> str | None:
    """The media type, if it is one that a header may carry; else None."""
    return media_type if media_type is not None and _MEDIA_TYPE.fullmatch(media_type) else None


def _boundary(content_type: str | None) -> bytes:
    if content_type is not None and content_type.isascii():
        _, parameters = parse_options_header(content_type)
        if boundary := parameters.get(b"boundary"):
            return boundary
    raise invalid(malformed_form("The Content-Type has no boundary"))


class _Form:
    """What the parser has told so far."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False

    def begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise invalid(malformed_form(f"The form has more than {MAX_PARTS} parts"))
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._name = self._value = b""
        self._data: list[bytes] = []

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def end_headers(self) -> None:
        _, self._disposition = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in self._disposition:
            raise invalid(malformed_form("A part has no name"))

    def data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def end_part(self) -> None:
        filename = self._disposition.get(b"filename")
        media_type = self._headers.get(b"content-type")
        self.parts.append(
            Part(
                name=self._disposition[b"name"].decode("utf-8", "replace"),
                data=b"".join(self._data),
                media_type=safe_media_type(media_type.decode("latin-1")) if media_type is not None else None,
                filename=filename.decode("utf-8", "replace") if filename is not None else None,
            )
        )

    def end(self) -> None:
        self.ended = True

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise invalid(malformed_form(f"A part's headers are longer than {MAX_HEADER_BYTES} bytes"))
