"""The transport inside one process: an event loop on one side, loop threads on the other.

Owns what travels between them and who has claimed it. Rests on what CPython and its free-threaded build guarantee:
`deque` and `list.pop` are atomic. No lock is held on the way of a request.
"""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from offloop.messages import Begun, Envelope, Freed, Outcome, Report
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.handoff import Handoff

Wake = Callable[[Callable[[], None]], object]
"""`loop.call_soon_threadsafe`, or its like; raises RuntimeError once the loop is closed."""


class MemoryTransport:
    """Both ends of all four ports: WorkSink and ReplySource on the event loop, WorkSource and ReplySink in threads.

    Args:
        wake: calls back on the event loop, from any thread.
        soon: calls back on the event loop, from it, before it waits again.
    """

    def __init__(self, wake: Wake, soon: Wake = lambda call: call()) -> None:
        self._wake = wake
        self._queue: Handoff[ClaimedDelivery | None] = Handoff(soon)
        self._deliveries: dict[str, ClaimedDelivery] = {}
        self._reports: deque[Report] = deque()
        self._receive: Callable[[Sequence[Report]], None] = lambda _: None
        self._armed = False
        self._closed = False

    # ---- on the event loop

    def subscribe(self, receive: Callable[[Sequence[Report]], None]) -> None:
        self._receive = receive

    def put(self, envelope: Envelope, worker: str | None) -> None:
        if self._closed:
            return
        delivery = self._deliveries[envelope.rid] = ClaimedDelivery(envelope)
        self._queue.put(delivery)

    def withdraw(self, rid: str) -> bool | None:
        delivery = self._deliveries.get(rid)
        if delivery is None or not delivery.begin():
            return False
        del self._deliveries[rid]
        # It stays in the queue until a loop comes to pass it over. Its body must not: its bytes count as free from here
        # on, and behind busy loops the bodies of expired requests would pile up.
        delivery.envelope = msgspec.structs.replace(delivery.envelope, payload=b"")
        return True

    def cancel(self, rid: str) -> None:
        delivery = self._deliveries.get(rid)
        if delivery is not None:
            delivery.cancel()

    def grant(self, rid: str, room: int) -> None:
        delivery = self._deliveries.get(rid)
        if delivery is not None:
            delivery.grant(room)

    def cut(self) -> None:
        """Each withdrawal is answered as any."""

    def settle(self) -> None:
        reports = self._reports
        if not reports or self._closed:
            return
        batch: list[Report] = []
        for _ in range(len(reports)):
            report = reports.popleft()
            if type(report) is Outcome or type(report) is Freed:
                ended = self._deliveries.pop(report.rid, None)
                if ended is not None and ended.envelope.attempt != report.attempt:
                    self._deliveries[report.rid] = ended  # it was put again since, and that one has not ended
                if (
                    batch
                    and type(before := batch[-1]) is Begun
                    and before.rid == report.rid
                    and type(report) is Outcome
                    and report.last
                ):
                    batch.pop()  # it began and ended since the last look, and the outcome says so itself
            batch.append(report)
        self._receive(batch)

    def _woken(self) -> None:
        # Disarm first: what is sent from here on wakes the loop again, what was sent before is read below.
        self._armed = False
        self.settle()

    def close(self) -> None:
        """Nothing is taken or delivered any more, in either direction. Idle loops are woken by `nudge`, not by this."""
        self._closed = True
        self._deliveries.clear()
        self._reports.clear()

    # ---- in loop threads

    def get(self, timeout: float) -> ClaimedDelivery | None:
        delivery = self._queue.get(timeout)
        return None if self._closed else delivery

    def nudge(self, loops: int) -> None:
        """Let `loops` idle `get` calls return None, so that they notice a stop."""
        for _ in range(loops):
            self._queue.put(None)

    def send(self, report: Report) -> None:
        if self._closed:
            return
        self._reports.append(report)
        # "Begun" alone wakes nobody: the web side reads it before any decision that depends on it.
        if not self._armed and type(report) is not Begun:
            self._armed = True
            try:
                self._wake(self._woken)
            except RuntimeError:  # the event loop has closed under a loop that outlived the drain
                self._closed = True
