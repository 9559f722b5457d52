"""Cluster mode: the loops are elsewhere, and whoever runs them looks after them.

Owns what a web process has to bring up of its own: its connections to the broker, and, where it is told to, workers on
this host that take from the same place as everybody's.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from offloop.ports.service import Workforce

SEEN_WITHIN = 2.0
"""Seconds that own workers may take to be seen once they are up; a broker that is lost meanwhile is not waited for."""


class Connects(Protocol):
    """The web side's end of a transport that has to be connected first."""

    async def start(self) -> None:
        """Raises StartError."""

    async def staffed(self, timeout: float) -> None:
        """Until somebody has been seen who takes requests, or so many seconds."""


class Local(Workforce, Protocol):
    """Workers of this host."""

    def lose(self) -> int | None:
        """As `ProcessWorkforce.lose`."""


class ClusterWorkforce:
    """`ports.service.Workforce` of a web process: its transport, then its own workers of each pool, if it has any."""

    def __init__(self, transport: Connects, local: Sequence[Local] = ()) -> None:
        self._transport = transport
        self._local = local

    async def start(self) -> None:
        await self._transport.start()
        if self._local:
            await self._bring_up()
            await self._transport.staffed(SEEN_WITHIN)  # else the first requests might find nobody

    async def _bring_up(self) -> None:
        """All at once. The first that fails says why; the others, which might take long, are given up."""
        starting = [asyncio.ensure_future(one.start()) for one in self._local]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for each in starting:
                each.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise

    def replace(self, worker: str) -> None:
        """Who hangs is ended where it is watched."""

    def lose(self) -> int | None:
        """As `ProcessWorkforce.lose`; None also where all workers are elsewhere."""
        return next((pid for one in self._local if (pid := one.lose()) is not None), None)

    async def stop(self, timeout: float) -> int:
        return sum(await asyncio.gather(*(one.stop(timeout) for one in self._local)))
