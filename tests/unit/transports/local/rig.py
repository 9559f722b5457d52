"""A worker's side of the local transport within the test's own process: real sockets, a real table, threads."""

import socket
import threading
from contextlib import suppress
from typing import TypeVar

from offloop.messages import Envelope
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.local.frames import Controls, Orders, Reader, Said, Setup
from offloop.transports.local.table import Table, shared_memory
from offloop.transports.local.web import LocalTransport
from offloop.transports.local.worker import LocalSource

DEADLINE = 10.0
FAR = 1e9
T = TypeVar("T")


def setup(name: str) -> Setup:
    return Setup(("program",), (b"/somewhere",), name, ("read",), 1, 2**20, True, False, {"": 20})


def envelope(rid: str = "r1", payload: bytes = b"{}", **fields: object) -> Envelope:
    return Envelope(**{"rid": rid, "endpoint": "read", "payload": payload, "deadline": FAR} | fields)  # type: ignore[arg-type]


class Attendant:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Said]] = []
        self.silences: list[tuple[str, str]] = []
        self.worn_out: list[str] = []

    def said(self, worker: str, said: Said) -> None:
        self.heard.append((worker, said))

    def silent(self, worker: str, why: str) -> None:
        self.silences.append((worker, why))

    def worn(self, worker: str) -> None:
        self.worn_out.append(worker)


class WorkerSide:
    """Four sockets and two views of a table; the web side's three are for `attach`, which takes them over."""

    def __init__(self, name: str = "worker-0:1", places: int = 17) -> None:
        self.name = name
        self.attendant = Attendant()
        self.web_work, self.work = socket.socketpair()
        self.web_control, self.control = socket.socketpair()
        memory = shared_memory(places)
        self.web_table, self.table = Table(memory), Table(memory)
        socket.close(memory)
        self.ended = threading.Semaphore(0)
        self.source = LocalSource(self.work, self.table, ended=self.ended.release)
        self._controller: threading.Thread | None = None
        self._orders: Reader[Orders] = Reader(Orders, 2**30)
        self._controls: Reader[Controls] = Reader(Controls, 0)

    def attach(self, transport: LocalTransport) -> None:
        """On the transport's event loop."""
        transport.attach(self.name, self.web_work, self.web_control, self.web_table, setup(self.name), self.attendant)

    def serve(self) -> None:
        """Read the setup, and heed control frames from now on."""
        self.source.setup()
        self._controller = threading.Thread(target=self._heed, daemon=True)
        self._controller.start()

    def _heed(self) -> None:
        with suppress(OSError):
            self.source.control(self.control)

    def take(self) -> ClaimedDelivery:
        delivery = self.source.get(DEADLINE)
        assert delivery is not None, "no work came"
        return delivery

    def orders(self) -> list[Orders]:
        """What the web side has sent, for a worker whose source reads nothing; at least one."""
        return _read(self.work, self._orders)

    def controls(self) -> list[Controls]:
        return _read(self.control, self._controls)

    def die(self) -> None:
        """As at a process' end; what it had sent stays to be read."""
        for line in (self.work, self.control):
            with suppress(OSError):  # the other side was first
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.die()
        if self._controller is not None:
            self._controller.join(DEADLINE)
            assert not self._controller.is_alive()
        for line in (self.work, self.control, self.web_work, self.web_control):
            line.close()
        self.table.close()
        self.web_table.close()


def _read(line: socket.socket, reader: Reader[T]) -> list[T]:
    line.settimeout(DEADLINE)
    while not (found := reader.read(line)):
        assert found is not None, "the web side has closed"
        assert reader.fault is None
    line.settimeout(None)
    return found
