"""Bodies on their way in.

Owns how a body is read while its request may end, and how the rest of one that nobody wants is let go. Bounds are the
gateway's; nothing here looks into a body.
"""

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import Receive

from offloop.fastapi.departures import Call
from offloop.ingress.gateway import Gateway

LINGER_BYTES = 64 * 2**20
LINGER_SECONDS = 2.0
"""How much of an unwanted body is read, and for how long, so that a caller who is still sending meets the answer and
not a reset connection."""


class Interrupt:
    """Ends a blocked `receive()` when the request ends during its upload (its time is up, the drain's budget ends).

    A context manager around the reading. It cancels the reading task, as `asyncio.timeout` does, because a server
    knows no other way to leave `receive()`; `fired` tells that cancellation from everybody else's.
    """

    __slots__ = ("_armed", "_promise", "_task", "fired")

    def __init__(self, promise: "asyncio.Future[Any]") -> None:
        self._promise = promise
        self._armed = False
        self._task: asyncio.Task[Any] | None = None
        self.fired = False

    def __enter__(self) -> "Interrupt":
        self._task = asyncio.current_task()
        self._armed = True
        self._promise.add_done_callback(self._ended)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._armed = False  # a callback that is scheduled already must find nothing to do
        self._promise.remove_done_callback(self._ended)
        if not self.fired:
            return False
        assert self._task is not None
        # Somebody else may have cancelled the task too: that one goes on.
        return self._task.uncancel() == 0 and kind is asyncio.CancelledError

    def _ended(self, _: object) -> None:
        if self._armed:
            self.fired = True
            assert self._task is not None
            self._task.cancel()


async def read_body(call: Call, gateway: Gateway, declared: int) -> bytes | None:
    """The whole body; None if the request has ended, or its caller has gone, before it was whole.

    Raises:
        PayloadTooLarge, QueueFull: it grew beyond a bound; the request has ended.
    """
    receive = call.receive
    with Interrupt(call.promise):
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")  # the usual case: all of it at once, and `send` judges its size
            return body
        chunks: list[bytes] = []
        total = 0
        while True:
            if message["type"] == "http.disconnect":
                call.gone()
                return None
            if chunk := message.get("body", b""):
                chunks.append(chunk)
                total += len(chunk)
                if total > declared:
                    gateway.grow(call.waiter, total)
            if not message.get("more_body", False):
                return b"".join(chunks)
            message = await receive()
    return None


async def discard_body(receive: Receive) -> None:
    """Read what is left of a body, within bounds of bytes and of seconds, and drop it."""
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except (TimeoutError, HTTPException):
        return  # too slow, or beyond a limit of the app's own on bodies: the connection is closed as it is
