"""One worker as the web side has it: its sockets, its table, what it was handed.

Owns what waits to be sent, and the sending, which never blocks. It knows no gateway; what a worker's silence means is
for whoever attached it.
"""

import asyncio
import socket
from typing import Protocol

import msgspec

from offloop.transports.local.frames import Answers, Cancel, Grant, Reader, Said, Sit, Stand, Stop, Withdraw, plain
from offloop.transports.local.table import Table

AT_ONCE = 512
"""Pieces that one system call takes (IOV_MAX is 1024 on Linux and macOS)."""
SMALL = 2**15
"""Bytes of a piece that is copied rather than sent from where it lies."""


class Attendant(Protocol):
    """Whoever looks after a worker process."""

    def said(self, worker: str, said: Said) -> None:
        """It is starting, ready, or cannot start."""

    def silent(self, worker: str, why: str) -> None:
        """Nothing more will come from it: its socket has ended, or what it sent cannot be understood. Once."""

    def worn(self, worker: str) -> None:
        """It has been handed as many requests as it may. Once."""


class Held(msgspec.Struct, eq=False):
    """What a worker was handed and has not finished."""

    rid: str
    attempt: int
    endpoint: str
    deadline: float
    link: "Link"
    place: int
    number: int
    asked: bool = False
    finished: bool = False


class Outbox:
    """What is to be sent on one socket, in order.

    Attributes:
        unsent: frames by number, which may still be taken back.
        blocked: the peer takes nothing now; what is pushed goes when it does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, line: socket.socket) -> None:
        self.unsent: dict[int, list[bytes]] = {}
        self.blocked = False
        self._loop = loop
        self._line = line
        self._rest: list[memoryview] = []  # begun, and to be finished
        self._orders = 0

    def order(self, what: Stop | Withdraw | Cancel | Grant | Sit | Stand) -> None:
        """Send something that is not a request, behind all that is here, at once."""
        self.tell(plain(what))

    def tell(self, frame: list[bytes]) -> None:
        """The same, encoded already."""
        self._orders -= 1  # no request has such a number
        self.unsent[self._orders] = frame
        self.push()

    def send(self, number: int, pieces: list[bytes]) -> None:
        """A frame whose receiver waits for it: at once, if all that came before is out."""
        if len(pieces) == 1 and not (self.blocked or self.unsent or self._rest):
            try:
                sent = self._line.send(pieces[0])
            except OSError:  # full, or gone: as `push` finds it
                sent = 0
            if sent == len(pieces[0]):
                return
            if sent:
                self._rest.append(memoryview(pieces[0])[sent:])
                self.push()
                return
        self.unsent[number] = pieces
        self.push()

    def push(self) -> None:
        """Send what can be sent now, and the rest when it can."""
        if self.blocked or self._line.fileno() < 0:
            return
        if not self._flush():
            self.blocked = True
            self._loop.add_writer(self._line.fileno(), self._writable)

    def _writable(self) -> None:
        if self._flush():
            self.blocked = False
            self._loop.remove_writer(self._line.fileno())

    def close(self) -> None:
        self._loop.remove_writer(self._line.fileno())
        self._line.close()

    def _flush(self) -> bool:
        """False if something is left."""
        try:
            while self._rest or self.unsent:
                if not self._rest:
                    self._begin()
                if len(self._rest) == 1:
                    self._sent(self._line.send(self._rest[0]))
                else:
                    self._sent(self._line.sendmsg(self._rest[:AT_ONCE]))
        except BlockingIOError:
            return False
        except OSError:  # it has gone; its end-of-file says so
            self._rest.clear()
            self.unsent.clear()
        return True

    def _begin(self) -> None:
        """Small pieces become one: that is cheaper than to have the system gather them."""
        small: list[bytes] = []
        for pieces in self.unsent.values():
            for piece in pieces:
                if len(piece) <= SMALL:
                    small.append(piece)
                else:
                    self._rest += (memoryview(b"".join(small)), memoryview(piece))
                    small = []
        if small:
            self._rest.append(memoryview(b"".join(small)))
        self.unsent.clear()

    def _sent(self, count: int) -> None:
        if len(self._rest) == 1 and len(self._rest[0]) == count:
            self._rest.clear()
            return
        whole = 0
        for piece in self._rest:
            if len(piece) > count:
                break
            count -= len(piece)
            whole += 1
        del self._rest[:whole]
        if count:
            self._rest[0] = self._rest[0][count:]


class Link:
    """Everything of one worker.

    Attributes:
        line: the work socket, to read from.
        places: those of its table that no request has.
        handed: how many requests it was handed so far; `holds`: how many it has not finished.
        limit: how many it may be handed; 0: any number.
        silent: nothing more will come from it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        work: socket.socket,
        control: socket.socket,
        table: Table,
        attendant: Attendant,
        max_report: int,
    ) -> None:
        self.name = name
        self.line = work
        self.work = Outbox(loop, work)
        self.control = Outbox(loop, control)
        self.table = table
        self.attendant = attendant
        self.reader: Reader[Answers] = Reader(Answers, max_report)
        self.places = list(range(len(table)))
        self.handed = 0
        self.holds = 0
        self.limit = 0
        self.silent = False
