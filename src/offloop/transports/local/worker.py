"""The worker side of the local transport: `WorkSource` and `ReplySink` over the sockets of one worker process.

Owns what this process was sent and has not finished, and who has claimed it. An idle loop reads the work socket itself,
so that no other thread stands between a request and its loop; what a loop finds besides its own it leaves to the next.
The control socket is read by a thread of its own, so that a request can be taken back, or be told that nobody waits,
while nodes run.
"""

import logging
import math
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable

from offloop.clock import Clock, monotonic
from offloop.messages import Begun, Chunk, Freed, Outcome, Report, Withdrawn
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.local.frames import (
    MAX_BODY,
    Controls,
    Failed,
    FrameError,
    Grant,
    Orders,
    Reader,
    Said,
    Setup,
    Sit,
    Stand,
    Stop,
    Withdraw,
    Work,
    plain,
    report,
)
from offloop.transports.local.table import Table
from offloop.transports.outcomes import legible, written

log = logging.getLogger("offloop")

AWAKE = 0.0002
"""Seconds that a loop may stay awake when it has nothing to do. In so long an answer reaches a caller on this host, and
the next request its worker; to be woken from sleep takes a third of that, and as much of the web process' time."""


class LocalSource:
    """Both of the worker side's ends.

    Args:
        work: the work socket, blocking.
        table: of this worker.
        ended: called in a loop's thread, by each `get` from then on: no work is left and none will come.
        clock: by which it is told how soon something has come.

    Attributes:
        max_report: bytes of the largest payload that the web side takes.
        idle: called in a loop's thread when no work has come for a while.
        stays_awake: whether a loop that is idle does not sleep for the first `AWAKE` seconds, where what came last was
            one request, and came within so much. It takes a CPU meanwhile, and is for one loop alone.
        seated: called in the control thread with who is to wait for work elsewhere, or is to do so no more.
    """

    def __init__(
        self, work: socket.socket, table: Table, ended: Callable[[], object] = lambda: None, clock: Clock = monotonic,
    ) -> None:  # fmt: skip
        self.max_report = MAX_BODY
        self.idle: Callable[[], object] = lambda: None
        self.stays_awake = False
        self.seated: Callable[[Sit | Stand], object] = lambda _: None
        self._work = work
        self._table = table
        self._ended = ended
        self._clock = clock
        self._orders: Reader[Orders] = Reader(Orders, MAX_BODY)
        self._queue: deque[ClaimedDelivery] = deque()
        self._open: dict[str, ClaimedDelivery] = {}
        self._withdrawn: set[int] = set()
        self._last = 0
        self._patience = math.nan
        self._over = False
        self._soon = False
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._arriving = threading.Lock()

    def setup(self) -> Setup:
        """The first frame; blocks until it has come.

        Raises:
            EOFError: the web process has gone.
            FrameError: it is something else.
        """
        while not (orders := self._orders.read(self._work)):
            if orders is None:
                raise EOFError
            if self._orders.fault is not None:
                raise self._orders.fault
        (first,) = orders  # the web side hands out no work before the worker is ready
        if not isinstance(first, Setup):
            raise FrameError(f"a {type(first).__name__} before the setup")
        return first

    # ---- WorkSource

    def get(self, timeout: float) -> ClaimedDelivery | None:
        queue = self._queue
        while True:
            try:
                return queue.popleft()
            except IndexError:
                pass
            if not self._reading.acquire(timeout=timeout):
                return None
            try:
                # Whoever had the lock may have read more than it takes.
                if not queue and not self._read(timeout):
                    return None
            finally:
                self._reading.release()

    def _read(self, timeout: float) -> bool:
        """Wait for work; False if none came, or none will. Raises FrameError, after which nothing can be read."""
        if not self._over and not self._wait(timeout):
            return False
        if self._over and not self._queue:
            self._ended()
            return False
        return True

    def _wait(self, timeout: float) -> bool:
        """Read once; False if nothing came."""
        if timeout != self._patience:
            self._patience = timeout
            self._work.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout))
        try:
            orders = self._next(timeout)
        except BlockingIOError:
            self.idle()
            return False
        except OSError:
            orders = None  # the web process has gone: its control socket says so, too
        if self._orders.fault is not None:
            raise self._orders.fault
        if orders is None or not self._arrived(orders):
            self._over = True
        return True

    def _next(self, timeout: float) -> list[Orders] | None:
        """Read once, as `Reader.read`: asleep, or awake for a while before that."""
        if not self.stays_awake:
            return self._orders.read(self._work)
        began = self._clock()
        until = began + min(AWAKE, timeout) if self._soon else began
        self._soon = False
        while True:
            awake = self._clock() < until
            try:
                orders = self._orders.read(self._work, socket.MSG_DONTWAIT if awake else 0)
            except BlockingIOError:
                if not awake:
                    raise
                os.sched_yield()  # whoever needs this CPU has it first
            else:
                self._soon = orders is not None and len(orders) == 1 and self._clock() - began <= AWAKE
                return orders

    def _arrived(self, orders: list[Orders]) -> bool:
        """False: no more will come."""
        with self._arriving:
            for order in orders:
                if isinstance(order, Work):
                    self._last = order.number
                    if order.number in self._withdrawn:
                        self._withdrawn.discard(order.number)
                        continue
                    delivery = ClaimedDelivery(order.envelope, order.place)
                    self._open[order.envelope.rid] = delivery
                    self._queue.append(delivery)
                elif isinstance(order, Stop):
                    return False
        return True

    # ---- for what is taken elsewhere

    def opened(self, rid: str, delivery: ClaimedDelivery) -> None:
        """Cancels and credits that come are for this one, too."""
        self._open[rid] = delivery

    def closed(self, rid: str, delivery: ClaimedDelivery) -> None:
        """It has ended; a later attempt of the same request may be here already."""
        if self._open.get(rid) is delivery:
            self._open.pop(rid, None)

    def holds(self, loop: int, deadline: float) -> None:
        """Show the web side what that loop runs: by its deadline; 0.0: nothing."""
        self._table[loop] = deadline

    def mark(self, loop: int, upper: int, lower: int) -> None:
        """Show it how far that loop has come: see `Table.mark`."""
        self._table.mark(loop, upper, lower)

    # ---- ReplySink

    def send(self, said: Report) -> None:
        """Also thread-safe against the control thread. Blocks while the web process does not read.

        Raises ValueError for a chunk that cannot be sent; an outcome that cannot becomes one that says so.
        """
        if isinstance(said, Begun):
            self._table[self._open[said.rid].place] = said.at
            return
        if isinstance(said, Outcome):
            if said.last:
                self._open.pop(said.rid, None)
            self._write(written(said, report, self.max_report))
        elif isinstance(said, Chunk):
            self._write(report(said))
        else:
            if isinstance(said, Freed):
                self._open.pop(said.rid, None)
            self._write(plain(said))

    def tell(self, said: Said) -> None:
        """Of this worker itself."""
        if isinstance(said, Failed):
            said = Failed(legible(said.line), legible(said.trace))
        self._write(plain(said))

    def _write(self, pieces: list[bytes]) -> None:
        try:
            with self._writing:
                for piece in pieces:
                    self._work.sendall(piece)
        except OSError:
            # The web process has gone, and nobody is left to tell.
            log.debug("a report could not be sent")

    # ---- control, in a thread of its own

    def control(self, line: socket.socket) -> None:
        """Read control frames until the web process closes their socket, or is gone. Raises FrameError."""
        reader: Reader[Controls] = Reader(Controls, 0)
        while told := self._told(reader, line):
            for one in told:
                if isinstance(one, Withdraw):
                    self.send(Withdrawn(one.rid, begun=not self._withdraw(one)))
                elif isinstance(one, Sit | Stand):
                    self.seated(one)
                elif (delivery := self._open.get(one.rid)) is None:
                    continue  # it has ended meanwhile
                elif isinstance(one, Grant):
                    delivery.grant(one.room)
                else:
                    delivery.cancel()

    def _told(self, reader: Reader[Controls], line: socket.socket) -> list[Controls]:
        """The next of them; none at the end."""
        told: list[Controls] | None = []
        while told is not None and not told:
            try:
                told = reader.read(line)
            except OSError:
                return []
            if reader.fault is not None:
                raise reader.fault
        return told or []

    def _withdraw(self, asked: Withdraw) -> bool:
        """Whether it will never begin."""
        with self._arriving:
            delivery = self._open.get(asked.rid)
            if delivery is None:
                coming = asked.number > self._last
                if coming:
                    self._withdrawn.add(asked.number)
                return coming
        if not delivery.begin():
            return False
        self._open.pop(asked.rid, None)
        return True


def _timeval(seconds: float) -> bytes:
    """For SO_RCVTIMEO, where nothing at all would mean for ever."""
    micros = max(1, round(seconds * 1e6))
    return struct.pack("@ll", micros // 10**6, micros % 10**6)
