"""An answer that is there whole leaves in one piece.

ASGI hands a server the head of an answer and its body one after the other, and a server writes each as it comes: two
system calls, and a caller who is woken by the first for nothing. uvicorn offers no way to say that both are there, so
what it writes to is stood in for while they are handed over; any other server gets them as ever. The same bytes leave
in the same order, whatever happens between the two.

Owns that. What an answer says must never enter.
"""

from collections.abc import Sequence
from typing import Any

from starlette.types import Send

JOINED = 2**16
"""Bytes of the largest body that is joined with its head: to copy a larger one costs more than a system call."""
CYCLES = ("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl")
"""Where uvicorn has what stands behind `send`."""


class Joint:
    """Stands in for a transport: keeps what is written first until what is written next goes out with it."""

    __slots__ = ("_kept", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._kept: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._kept is None:
            self._kept = data
        else:
            kept, self._kept = self._kept, b""
            self._transport.write(kept + data)

    def flush(self) -> None:
        """Nothing is kept any more."""
        kept, self._kept = self._kept, b""
        if kept:
            self._transport.write(kept)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def answer(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    """Send it, and complete it."""
    cycle: Any = getattr(send, "__self__", None)
    if len(body) > JOINED or not _joins(cycle):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    transport = cycle.transport
    joint = cycle.transport = Joint(transport)
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    finally:
        cycle.transport = transport
        joint.flush()


_known: dict[type, bool] = {}


def _joins(cycle: Any) -> bool:
    """Whether that is uvicorn's, as it is known here, with a connection that takes what is written at once."""
    kind = type(cycle)
    if kind not in _known:
        _known[kind] = kind.__name__ == "RequestResponseCycle" and kind.__module__ in CYCLES
    if not _known[kind]:
        return False
    try:
        return not cycle.flow.write_paused and cycle.transport is not None
    except AttributeError:
        _known[kind] = False  # of another version
        return False
