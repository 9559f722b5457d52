"""How long a send may wait for a peer that does not read.

Owns the waiting, and that it costs nothing where there is none: most sends end at once, and a timer for each would cost
more than the send. How long is for whoever sends.
"""

import asyncio
from collections.abc import Awaitable, Generator
from types import coroutine
from typing import Any

Steps = Generator[Any, Any, None]


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
