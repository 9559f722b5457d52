"""What is said on a WebSocket, read and written: one JSON object a text frame, a Blob's bytes as a binary frame.

Owns the shape of both directions. No connection, no request and no waiting may enter: a frame in, words out, and back.
"""

from typing import Annotated, Any, Literal

import msgspec
from pydantic_core import to_json

from offloop import errors
from offloop.fastapi import problems
from offloop.graph.payload_replies import OF_A_UNION
from offloop.messages import Chunk, Outcome, Progressed

Frame = str | bytes

LONGEST_ID = 128
"""Characters of an id: it is held for as long as its request lives, and repeated in every answer."""


class Said(msgspec.Struct, frozen=True):
    """A text frame of the peer's: a request, or that it wants one no more.

    Attributes:
        data: the request's JSON as it came; empty where there was none.
        timeout: seconds that the request may take; shortens the endpoint's.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)]
    event: Literal["cancel"] | None = None
    data: msgspec.Raw = msgspec.Raw()
    timeout: float | None = None


_decode = msgspec.json.Decoder(Said).decode


def read(text: str) -> Said:
    """Raises InvalidPayload where it is no frame of ours."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise invalid(
            f'A frame is a JSON object with an "id" (a text of 1 to {LONGEST_ID} characters) and with "data" '
            '(and, if need be, a "timeout" in seconds), or with "event": "cancel"'
        ) from None


def invalid(said: str, *where: str) -> errors.InvalidPayload:
    """A fault of a frame, in the shape of every other fault of a payload."""
    return errors.InvalidPayload(
        [{"type": "frame_invalid", "loc": ["frame", *where], "msg": said, "input": None}], retry_safe=False
    )


def message(id: str, event: Literal["chunk", "reply"], said: Chunk | Outcome) -> tuple[Frame, ...]:  # noqa: A002
    """A stream message or the reply: JSON as it is; a Blob is announced, and its bytes are the frame after that."""
    kind = said.media_type
    if kind is None:
        return (f'{_head(id, event)},"data":{said.payload.decode() or "null"}}}',)
    if kind.startswith(OF_A_UNION):
        return (f'{_head(id, event)},"media_type":{_json(kind)},"data":{said.payload.decode()}}}',)
    blob = {"media_type": kind, "filename": said.filename, "size": len(said.payload)}
    return f'{_head(id, event)},"blob":{_json(blob)}}}', said.payload


def progress(id: str, said: Progressed) -> tuple[Frame, ...]:  # noqa: A002
    rest = _json({"done": said.done, "total": said.total, "note": said.note})
    return (f"{_head(id, 'progress')},{rest[1:]}",)


def problem(id: str | None, error: errors.OffloopError, label: bytes) -> tuple[Frame, ...]:  # noqa: A002
    """A failure, as the body that HTTP has for it; what else HTTP says of it is beside that.

    Args:
        id: the request's; None where the failure is of no request that could be told.
        error: a row of the contract's table, or a Problem.
        label: the socket's `X-Request-ID`.
    """
    status, _, body = problems.answer(error, label)
    wait = f',"retry_after":{error.retry_after or 1}' if status in (429, 503) else ""
    return (f'{_head(id, "problem")},"status":{status}{wait},"problem":{body.decode()}}}',)


def size(frame: Frame) -> int:
    """Its bytes; of a text that is not ASCII, what they are at the most: to encode it only to count would cost more."""
    return len(frame) if isinstance(frame, bytes) or frame.isascii() else 4 * len(frame)


def _head(id: str | None, event: str) -> str:  # noqa: A002
    named = "" if id is None else f'"id":{_json(id)},'
    return f'{{{named}"event":"{event}"'


def _json(value: Any) -> str:
    return to_json(value, inf_nan_mode="null").decode()
