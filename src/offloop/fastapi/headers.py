"""What single HTTP headers mean, and how they are written safely.

Owns the reading of `X-Request-ID` and `X-Request-Timeout` and the writing of `Content-Type` and `Content-Disposition`.
No request is judged here, and nothing here reads or writes a connection.
"""

import random
import re
from email.message import Message
from math import inf
from urllib.parse import quote

from offloop import errors

LABEL = re.compile(rb"[\x21-\x7e]{1,128}")
SECONDS = re.compile(rb"[0-9]{1,20}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
MEDIA_TYPE = re.compile(r"[\x20-\x7e]{1,255}")
OCTETS = "application/octet-stream"


def request_label(value: bytes | None) -> bytes:
    """The caller's `X-Request-ID` where it is 1 to 128 visible ASCII characters, otherwise a new one.

    A label is for people and logs: it may repeat, and nothing is ever found by it.
    """
    if value is not None and LABEL.fullmatch(value):
        return value
    # Python's generator is seeded anew in a forked child, so that workers of a pre-forking server do not agree.
    return b"%032x" % random.getrandbits(128)


def request_timeout(value: bytes) -> float:
    """Seconds of an `X-Request-Timeout`: a finite number above zero, written as in JSON.

    Raises:
        InvalidPayload: it is anything else; located at the header, as FastAPI would.
    """
    seconds = float(value) if SECONDS.fullmatch(value) else 0.0
    if 0 < seconds < inf:
        return seconds
    said = value.decode("latin-1")
    raise errors.InvalidPayload(
        [
            {
                "type": "request_timeout",
                "loc": ["header", "x-request-timeout"],
                "msg": "Input should be a number of seconds greater than 0, such as 2.5",
                "input": said,
            }
        ],
        retry_safe=False,
    )


def media_type_header(media_type: str | None) -> bytes:
    """A Blob's media type as a header's value; bytes of unknown kind where it is none or could not be one."""
    if media_type is None or not MEDIA_TYPE.fullmatch(media_type):
        media_type = OCTETS
    return media_type.encode("ascii")


def filename_of(disposition: bytes) -> str | None:
    """A raw body's file name from its `Content-Disposition`, without a path; None where there is none to be read.

    The caller names the encoding, and some that Python knows decode to what no text can hold, or raise.
    """
    message = Message()
    message["content-disposition"] = disposition.decode("utf-8", "replace")
    try:
        name = message.get_filename("")
    except ValueError:
        return None
    return re.split(r"[/\\]", name.encode(errors="replace").decode())[-1] or None


def disposition_header(filename: str) -> bytes:
    """`Content-Disposition: attachment` with a file's name (RFC 6266, section 4; RFC 8187, section 3.2).

    What a quoted string cannot hold, and what would make it a path, is replaced in `filename`; where that changed the
    name, `filename*` has it whole.
    """
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", filename)
    plain = re.sub(r'[^\x20-\x7e]|["%]', "_", name)
    value = f'attachment; filename="{plain}"'
    if plain != name:
        value += f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return value.encode("ascii")
