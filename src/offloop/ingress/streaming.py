"""One streaming request on the event loop: what has come and was not taken yet, and its outcome.

Owns the order (messages first, the outcome last) and the telling of what was taken, so that the loop that makes them
waits for a caller who does not keep up; and that whoever does keep up leaves the others their turn. How messages are
written for a caller is an adapter's affair.
"""

import asyncio
from collections import deque
from collections.abc import Iterator

from offloop.core.waiters import Waiter
from offloop.ingress.gateway import Gateway
from offloop.ingress.turns import Share
from offloop.messages import Chunk, Outcome, Progressed


class Stream:
    """The hearer of one waiter's stream messages. One task takes from it.

    Use: make it, `gateway.open(name, stream.promise)`, `begin(waiter)`, `gateway.send(…, stream=True)`, then `take`
    until it gives what ends the request, and `gateway.close(waiter)` whatever happens.

    Attributes:
        promise: the gateway's; what it is told is given when all that came before was taken.
        turn: waits for the event loop's next turn where enough was taken in this one; for whoever uses `take_now`.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.promise: asyncio.Future[Outcome | None] = gateway.promise()
        self.promise.add_done_callback(self._wake)
        self._gateway = gateway
        self._waiter: Waiter | None = None
        self._heard: deque[Chunk | Progressed] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._share = Share(gateway.turns)
        self.turn = self._share.over

    def begin(self, waiter: Waiter) -> None:
        """Hear this one."""
        self._waiter = waiter
        waiter.hears = self._hear

    async def take(self) -> Chunk | Progressed | Outcome | None:
        """The next stream message or progress; in the end the outcome, or None where whoever asked has gone."""
        await self.turn()
        while not self._heard and not self.promise.done():
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._take() if self._heard else self.promise.result()

    def take_now(self, most: int) -> Iterator[Chunk | Progressed]:
        """What has come by now, `most` of it at most; never the end."""
        while self._heard and most > 0:
            most -= 1
            yield self._take()

    def _take(self) -> Chunk | Progressed:
        first = self._heard.popleft()
        self._share.done()
        if isinstance(first, Chunk):
            assert self._waiter is not None
            self._gateway.take(self._waiter, first)
        return first

    def _hear(self, report: Chunk | Progressed) -> None:
        if isinstance(report, Progressed) and self._heard and isinstance(self._heard[-1], Progressed):
            self._heard.pop()  # whoever did not see the last one wants the newest
        self._heard.append(report)
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
