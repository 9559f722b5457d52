"""How long a caller of `/ping` waits while other callers have documents read.

Owns the comparison's measurements. It prints nothing and starts nothing.

Pings are sent by the clock, each on a connection of its own, whether or not the last one was answered; a tester that
waits for answers would leave out the very moments that matter (Gil Tene's "coordinated omission").
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple, Self, TypeVar

from offloop.demo.client import Client

T = TypeVar("T")

PERIOD = 0.01
"""Seconds between pings."""
QUIET = 0.5
"""Seconds of pinging with nothing else to do."""
CALLERS = 8
WORTH = 2.5
"""Seconds that each way should take, about."""


@dataclass(frozen=True)
class Latency:
    """Of some requests, in seconds: the middle one, the one that 99 of 100 do not exceed, and the longest."""

    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """By nearest rank. At least one sample."""
        ranked = sorted(samples)
        return cls(*(ranked[ceil(share * len(ranked)) - 1] for share in (0.5, 0.99, 1.0)))


class Way(NamedTuple):
    """One way of doing the same work: how it is called in the table, and its path."""

    label: str
    path: str


class Measured(NamedTuple):
    """What one way made of it: how many documents were answered with 200, in how many seconds, and the pings."""

    label: str
    read: int
    seconds: float
    ping: Latency


async def quiet(client: Client) -> Measured:
    """Pings while nothing else happens: what to compare with."""
    _, ping = await _while_pinging(client, asyncio.sleep(QUIET))
    return Measured("nothing else", 0, 0.0, ping)


async def worth_measuring(client: Client, path: str, document: bytes) -> int:
    """How many uploads of a document make about `WORTH` seconds of work on this machine: 8 to 48."""
    answer = await client.send("POST", path, document, "application/pdf")
    return min(48, max(CALLERS, round(WORTH / answer.seconds)))


async def measure(client: Client, way: Way, document: bytes, uploads: int) -> Measured:
    """Upload a document so many times, by several callers who each wait for their answer, and ping meanwhile.

    Raises:
        ExceptionGroup: of OSError, where the server went away.
    """
    left = iter(range(uploads))

    async def caller() -> int:
        answers = [await client.send("POST", way.path, document, "application/pdf") for _ in left]
        return sum(answer.status == 200 for answer in answers)

    async def all_callers() -> tuple[int, float]:
        began = asyncio.get_running_loop().time()
        read = sum(await asyncio.gather(*(caller() for _ in range(CALLERS))))
        return read, asyncio.get_running_loop().time() - began

    (read, seconds), ping = await _while_pinging(client, all_callers())
    # The next way begins without connections, as this one did.
    await client.close()
    return Measured(way.label, read, seconds, ping)


async def _while_pinging(client: Client, work: Coroutine[Any, Any, T]) -> tuple[T, Latency]:
    now = asyncio.get_running_loop().time
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(work)
        pings = []
        due = now()
        while not working.done():
            pings.append(tasks.create_task(_ping(client, due)))
            due += PERIOD
            await asyncio.wait([working], timeout=max(0.0, due - now()))
    return working.result(), Latency.of([ping.result() for ping in pings])


async def _ping(client: Client, due: float) -> float:
    """Seconds from when it was due to its answer."""
    await client.send("GET", "/ping")
    return asyncio.get_running_loop().time() - due
