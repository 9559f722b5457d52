"""Server-sent events: an endpoint with `stream=` for callers that accept `text/event-stream`.

Owns the form of the events (WHATWG HTML, section "Server-sent events") and the rule for callers who do not read. What
is refused is refused as over HTTP at large, before anything is streamed; what is admitted is a 200 and events: any
number of `chunk` and `progress`, then exactly one `reply` or `problem`.
"""

import asyncio
from base64 import b64encode
from collections.abc import Iterator

from pydantic_core import to_json
from starlette.types import Message, Send

from offloop.core.waiters import Waiter
from offloop.fastapi import problems
from offloop.fastapi.cutting import cut
from offloop.fastapi.patience import Reader
from offloop.graph.payload_replies import OF_A_UNION
from offloop.ingress.gateway import Gateway
from offloop.ingress.outcomes import error_of
from offloop.ingress.streaming import Stream
from offloop.messages import Chunk, Outcome, Progressed

EVENT_STREAM = b"text/event-stream"
KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that nobody in between takes the connection for dead."""
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


class Answer:
    """The events of one request, from the head of the answer to its end.

    Args:
        send: where they go.
        label: the request's `X-Request-ID`.
    """

    def __init__(self, send: Send, label: bytes) -> None:
        self._to = send
        self._label = label
        self._reader = Reader()

    async def serve(self, stream: Stream) -> Outcome | None:
        """Send all events but the last. Returns the outcome; None where the caller has gone, or does not read."""
        headers = [*HEADERS, (b"x-request-id", self._label)]
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": headers}, 0)
            while not isinstance(heard := await self._next(stream), Outcome | None):
                # Whatever has come meanwhile goes along: a server has as much to do for one event as for many.
                await self._write(b"".join(map(_event, (heard, *stream.take_now(AT_ONCE - 1)))))
        except TimeoutError:
            await cut(self._to)
            return None
        return heard

    async def end(self, gateway: Gateway, waiter: Waiter, outcome: Outcome) -> None:
        """Send the last event, and with it the end of the answer."""
        if outcome.reason == "ok" and not outcome.status:
            data = b"".join(_lines(b"reply", _data(outcome)))
        else:
            retry_after = gateway.retry_after(waiter, outcome)
            error = error_of(outcome, waiter.policy, waiter.request_id, retry_after=retry_after)
            data = b"".join(_lines(b"problem", problems.answer(error, self._label)[2]))
        try:
            await self._write(data)
            # Apart: a server waits for the peer before it takes more, and not for what it has taken.
            await self._send({"type": "http.response.body", "body": b""}, 0)
        except TimeoutError:
            await cut(self._to)

    async def _next(self, stream: Stream) -> Chunk | Progressed | Outcome | None:
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
            await self._write(b":\n\n")

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True}, len(data))

    async def _send(self, message: Message, size: int) -> None:
        """Raises TimeoutError where the caller does not read."""
        await self._reader.takes(self._to(message), size)


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
