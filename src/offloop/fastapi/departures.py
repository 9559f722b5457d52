"""Callers that go away while they wait.

Owns when a request's connection is listened to. A request that is answered at once never is: a task for each would
cost more than the rest of its way. Those still unanswered after one to two generations get one task that awaits
`receive()`. What a departure means is the gateway's affair.
"""

import asyncio
from typing import Any

from starlette.types import Receive

from offloop.core.waiters import Waiter
from offloop.ingress.gateway import Gateway
from offloop.messages import Outcome

GENERATION = 0.02
"""Seconds between looks at who is still unanswered; a departure is seen within two of them."""


class Call:
    """One admitted request: it waits for its body, then for its outcome. Its promise holds None if its caller has gone.

    Attributes:
        reading: the task that reads the body, while it does.
        watcher: the task that listens for a departure, once there is one.
    """

    __slots__ = ("_gateway", "_guarded", "_interrupted", "promise", "reading", "receive", "waiter", "watcher")

    def __init__(
        self, gateway: Gateway, waiter: Waiter, promise: "asyncio.Future[Outcome | None]", receive: Receive
    ) -> None:
        self._gateway = gateway
        self.receive = receive
        self.watcher: asyncio.Task[None] | None = None
        self._guarded = False
        self._interrupted = False
        self.reading: asyncio.Task[Any] | None = None
        self.waiter = waiter
        self.promise = promise

    def gone(self) -> None:
        """The caller has gone: nobody is to be told, and the request need not wait for its outcome."""
        self._gateway.cancel(self.waiter, "disconnect")
        if not self.promise.done():
            self.promise.set_result(None)

    def look_after(self) -> bool:
        """It was not answered at once: see to it that neither its body nor its outcome is waited for in vain.

        Returns whether to come again: what is still reading its body is listened to when that has ended.
        """
        if self.reading is None:
            self.watcher = asyncio.get_running_loop().create_task(self._until_gone())
            self.watcher.add_done_callback(self._watched)
            return False
        if not self._guarded:
            self._guarded = True
            self.promise.add_done_callback(self._interrupt)
        return True

    def _interrupt(self, _: object) -> None:
        # The request has ended during its upload (its time was up, or the drain's). A server knows no other way to
        # leave a blocked `receive()` than to cancel the task, as `asyncio.timeout` does.
        if self.reading is not None:
            self._interrupted = True
            self.reading.cancel()

    def interrupted(self) -> bool:
        """Whether it was this that cancelled the reading task, and nobody else has too: those go on."""
        return self._interrupted and self.reading is not None and self.reading.uncancel() == 0

    async def _until_gone(self) -> None:
        """A body that the endpoint does not take is passed over. Whatever else comes after its end ends the watch."""
        more = True
        while (message := await self.receive())["type"] != "http.disconnect":
            if not more:
                return
            more = message.get("more_body", False)
        self.gone()

    def _watched(self, watcher: "asyncio.Task[None]") -> None:
        # A connection that fails while it is listened to must fail the request, not a task that nobody awaits.
        if not watcher.cancelled() and (fault := watcher.exception()) is not None and not self.promise.done():
            self.promise.set_exception(fault)


class Departures:
    """The unanswered calls of one event loop, in two generations and with one timer that rests when there are none."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._young: set[Call] = set()
        self._old: set[Call] = set()
        self._ticking = False

    def add(self, call: Call) -> None:
        loop = call.promise.get_loop()
        if loop is not self._loop:  # another life: whatever the loop of the last one left behind will never tick
            self._loop = loop
            self._young, self._old, self._ticking = set(), set(), False
        self._young.add(call)
        if not self._ticking:
            self._ticking = True
            loop.call_later(GENERATION, self._tick, loop)

    def discard(self, call: Call) -> None:
        """It has its outcome, or needs none; before the answer is written, which a server reports as a departure."""
        self._young.discard(call)
        self._old.discard(call)
        if call.watcher is not None:
            call.watcher.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        again = {call for call in self._old if call.look_after()}
        self._old, self._young = self._young, again
        self._ticking = bool(self._old or self._young)
        if self._ticking:
            loop.call_later(GENERATION, self._tick, loop)
