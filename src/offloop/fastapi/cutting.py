"""The end of a connection whose peer does not read.

A server closes a connection once all that it was given for it has left. With a peer that does not read that is never:
the connection and what it holds would stay, and a stop of the server would wait for it. ASGI has no word for an end at
once, but behind `send` uvicorn's connection can be found, also through the wrappers that FastAPI puts around it. Where
there is another server, or something of the user's own in between, the connection is left to the server.

Owns the finding and the cutting. Whether and when is for whoever sends.
"""

import asyncio
from types import FunctionType
from typing import Any, Protocol

UVICORN = "uvicorn.protocols."
"""Where all that stands behind uvicorn's `send` is defined."""
DEEPEST = 16
"""Wrappers that are looked through. FastAPI's are two or three."""


class Connection(Protocol):
    """The part of a transport that is needed; an event loop's own need not be an `asyncio.Transport` by name."""

    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...


async def cut(send: Any) -> None:
    """End it now, whatever has not left yet; with the server knowing of it when this returns."""
    connection = connection_of(send)
    if connection is not None:
        connection.abort()
        await asyncio.sleep(0)  # it is told in the next turn, and would call it a fault if the application ended first


def cut_unless_read(send: Any, seconds: float) -> None:
    """The server closes it once all has left: end it after so many seconds if that has not come about by then."""
    connection = connection_of(send)
    if connection is not None and connection.get_write_buffer_size():
        asyncio.get_running_loop().call_later(seconds, _cut_unless_read, connection)


def _cut_unless_read(connection: Connection) -> None:
    if connection.get_write_buffer_size():
        connection.abort()


def connection_of(send: Any) -> Connection | None:
    """What uvicorn writes to for this application; None where that cannot be told."""
    for _ in range(DEEPEST):
        if not isinstance(send, FunctionType):
            break
        # Starlette's wrappers are functions that close over the `send` that they were given.
        held = dict(zip(send.__code__.co_freevars, send.__closure__ or (), strict=True))
        if "send" not in held:
            return None
        send = held["send"].cell_contents
    protocol = getattr(send, "__self__", None)
    if not type(protocol).__module__.startswith(UVICORN):
        return None
    connection: Connection | None = getattr(protocol, "transport", None)
    return connection if hasattr(connection, "abort") and hasattr(connection, "get_write_buffer_size") else None
