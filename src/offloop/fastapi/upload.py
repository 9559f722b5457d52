"""Bodies on their way in.

Owns how a body is read while its request may end, and how the rest of one that nobody wants is let go. Bounds are the
gateway's; nothing here looks into a body.
"""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from offloop.fastapi.departures import Call
from offloop.ingress.gateway import Gateway

LINGER_BYTES = 64 * 2**20
LINGER_SECONDS = 2.0
"""How much of an unwanted body is read, and for how long, so that a caller who is still sending meets the answer and
not a reset connection."""


async def read_body(call: Call, gateway: Gateway, declared: int) -> bytes | None:
    """The whole body; None if the request has ended, or its caller has gone, before it was whole.

    Raises:
        PayloadTooLarge, QueueFull: it grew beyond a bound; the request has ended.
    """
    call.reading = asyncio.current_task(call.promise.get_loop())
    try:
        message = await call.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")  # the usual case: all of it at once, and `send` judges its size
            return body
        return await _pieces(call, gateway, declared, message)
    except asyncio.CancelledError:
        if not call.interrupted():
            raise
        return None
    finally:
        call.reading = None


async def _pieces(call: Call, gateway: Gateway, declared: int, message: Message) -> bytes | None:
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
        message = await call.receive()


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
