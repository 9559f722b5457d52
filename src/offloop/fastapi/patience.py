"""How long a send may wait for a peer that does not read.

Owns the waiting, and that it costs nothing where there is none: most sends end at once, and a timer for each would cost
more than the send. What becomes of the peer's request is for whoever sends.
"""

import asyncio
from collections.abc import Awaitable, Generator
from types import coroutine
from typing import Any

Steps = Generator[Any, Any, None]

PATIENCE = 10.0
"""Seconds that a send may wait for a peer that does not read at all."""
SLOWEST = 65536
"""Bytes a second: a peer that reads so fast is never taken for one that does not, however large the messages are."""


class Reader:
    """What one peer was sent lately, and so how long the next send may wait for it.

    A server takes a message whole, and lets wait for it either whoever sent it or whoever sends the next; what stands
    in between, such as a middleware with a task of its own, may hold one more. So three messages count.
    """

    __slots__ = ("_before", "_last")

    def __init__(self) -> None:
        self._before = self._last = 0

    async def takes(self, sending: Awaitable[None], size: int) -> None:
        """Await the send of so many bytes. Raises TimeoutError where the peer does not read."""
        allowed = self.allowed(size)
        self._before, self._last = self._last, size
        await patiently(sending, allowed)

    def allowed(self, size: int = 0) -> float:
        """Seconds that a send of so many bytes may wait, as things are."""
        return PATIENCE + (self._before + self._last + size) / SLOWEST


async def patiently(sending: Awaitable[None], seconds: float) -> None:
    """Await a send for so many seconds at most. Raises TimeoutError, the send having been cancelled."""
    steps = sending.__await__()
    try:
        waits_for = next(steps)
    except StopIteration:
        return
    async with asyncio.timeout(seconds):
        await _go_on(steps, waits_for)


@coroutine
def _go_on(steps: Steps, waits_for: Any) -> Steps:
    """The rest of what was begun by hand: what `await` does from its second step on (PEP 380, "Formal Semantics")."""
    try:
        while True:
            try:
                woken = yield waits_for
            except BaseException as thrown:  # noqa: BLE001  (a cancellation, above all: it is for what was begun)
                waits_for = steps.throw(thrown)
            else:
                waits_for = steps.send(woken)
    except StopIteration:
        return
