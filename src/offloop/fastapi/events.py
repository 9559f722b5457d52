"""Server-sent events: an endpoint with `stream=` for callers that accept `text/event-stream`.

Owns the form of the events (WHATWG HTML, section "Server-sent events") and the rule for callers who do not read. What
is refused is refused as over HTTP at large, before anything is streamed; what is admitted is a 200 and events: any
number of `chunk` and `progress`, then exactly one `reply` or `problem`.
"""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress

from pydantic_core import to_json
from starlette.types import Send

from offloop.core.waiters import Waiter
from offloop.fastapi import problems
from offloop.fastapi.patience import patiently
from offloop.graph.payload_replies import OF_A_UNION
from offloop.ingress.gateway import Gateway
from offloop.ingress.outcomes import error_of
from offloop.ingress.streaming import Stream
from offloop.messages import Chunk, Outcome, Progressed

EVENT_STREAM = b"text/event-stream"
KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that nobody in between takes the connection for dead."""
PATIENCE = 10.0
"""Seconds that a caller may leave what was sent unread, before the request is cancelled and the connection closed."""
AT_ONCE = 64
"""Events that are sent together, if so many are there."""
HEADERS = [
    (b"content-type", EVENT_STREAM),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would gather them
]


def wanted(headers: dict[bytes, bytes]) -> bool:
    """Whether the caller accepts events; whoever accepts anything gets the reply alone."""
    return EVENT_STREAM in headers.get(b"accept", b"").lower()


async def serve(stream: Stream, label: bytes, send: Send) -> Outcome | None:
    """Send all events but the last. Returns the outcome; None where the caller has gone, or does not read."""
    try:
        await _send(
            send, {"type": "http.response.start", "status": 200, "headers": [*HEADERS, (b"x-request-id", label)]}
        )
        while not isinstance(heard := await _next(stream, send), Outcome | None):
            # Whatever has come meanwhile goes along: a server has as much to do for one event as for many.
            await _write(send, b"".join(map(_event, (heard, *stream.take_now(AT_ONCE - 1)))))
    except TimeoutError:
        return None
    return heard


async def end(gateway: Gateway, waiter: Waiter, outcome: Outcome, label: bytes, send: Send) -> None:
    """Send the last event, and with it the end of the answer."""
    if outcome.reason == "ok" and not outcome.status:
        data = b"".join(_lines(b"reply", _data(outcome)))
    else:
        retry_after = gateway.retry_after(waiter, outcome)
        error = error_of(outcome, waiter.policy, waiter.request_id, retry_after=retry_after)
        data = b"".join(_lines(b"problem", problems.answer(error, label)[2]))
    with suppress(TimeoutError):
        await _send(send, {"type": "http.response.body", "body": data})


async def _next(stream: Stream, send: Send) -> Chunk | Progressed | Outcome | None:
    await stream.turn()
    for heard in stream.take_now(1):
        return heard
    while True:
        silence = asyncio.timeout(KEEP_ALIVE)
        try:
            async with silence:
                return await stream.take()
        except TimeoutError:
            if not silence.expired():  # the connection's own: it would be raised again and again
                raise
        await _write(send, b":\n\n")


def _event(heard: Chunk | Progressed) -> bytes:
    if isinstance(heard, Chunk):
        return b"".join(_lines(b"chunk", _data(heard)))
    said = {"done": heard.done, "total": heard.total, "note": heard.note}
    return b"".join(_lines(b"progress", to_json(said, inf_nan_mode="null")))


def _data(said: Chunk | Outcome) -> bytes:
    """JSON as it is; bytes of another kind in base64, with what is known of them."""
    if said.media_type is None or said.media_type.startswith(OF_A_UNION):
        return said.payload or b"null"
    blob = {"media_type": said.media_type, "filename": said.filename, "data": b64encode(said.payload).decode()}
    return to_json(blob)


def _lines(kind: bytes, data: bytes) -> Iterator[bytes]:
    yield b"event: " + kind + b"\n"
    for line in data.splitlines():  # a type that writes its JSON over several lines
        yield b"data: " + line + b"\n"
    yield b"\n"


async def _write(send: Send, data: bytes) -> None:
    await _send(send, {"type": "http.response.body", "body": data, "more_body": True})


async def _send(send: Send, message: dict[str, object]) -> None:
    """Raises TimeoutError where the caller does not read."""
    await patiently(send(message), PATIENCE)
