"""Peers that read slowly, and peers that do not read: who loses the socket and who keeps it, over a real connection."""

import json
import signal
import socket
from collections.abc import Iterator

import pytest
from websockets.frames import Close, Opcode
from websockets.sync.client import ClientConnection

from tests.e2e.programs.sockets import DROP
from tests.e2e.test_sockets_frames import Line, text
from tests.e2e.test_websocket import MIB, connect, hear, wait_waiters
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.pace import Pace
from tests.support.server import Server, serving

APP = "tests.e2e.programs.sockets_impatient_app:app"
"""Its patience is 0.3 s."""
PATIENT = "tests.e2e.programs.sockets_app:app"
LONGER = 0.6
"""Seconds that a peer does not read: twice that patience."""


@pytest.fixture(scope="module")
def server(mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(APP, env=mode.env(4, per_worker=2)) as server:
        yield server


def pass_time(other: ClientConnection, seconds: float) -> None:
    """Until the server says that so much time has passed: what waits at the gate ends at its deadline."""
    other.send(json.dumps({"id": "time", "data": {"name": "time"}, "timeout": seconds}))
    assert hear(other)["problem"]["reason"] in ("deadline-exceeded", "expired-in-queue")


def test_a_slow_but_steady_reader_keeps_its_socket_however_large_the_message(server: Server, gate: Gate) -> None:
    steps, step = 4, 3 * MIB
    with Line(server, "/large") as slow, connect(server, "/wait") as other:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.send(text({"id": "large", "data": {"mib": steps * step // MIB}}))
        assert slow.hear()["blob"]["size"] == steps * step
        slow.send(text({"id": "next", "data": {"mib": 0}}))  # whose answer waits until nearly all of this is taken
        assert slow.begin() == (Opcode.BINARY, steps * step)
        for _ in range(steps):
            pass_time(other, LONGER)
            gate.open("time")
            slow.read(step)
        assert slow.hear()["id"] == "next"


def test_a_peer_that_reads_nothing_is_closed_and_its_generator_with_it(server: Server, gate: Gate) -> None:
    with Line(server, "/flood") as idle:
        idle.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        idle.send(text({"id": "f", "data": {"mib": 64, "name": "impatient"}}))
        gate.wait_note("impatient closed")
        wait_waiters(server, "flood", 0)


def test_a_drain_waits_for_a_reader_that_takes_its_time(mode: Mode, gate: Gate) -> None:
    """The work has ended: what is left of the budget is for what it made to be read."""
    mib = 8  # of which systems hold some, and the window one: the rest is read before
    drops = mib * MIB // DROP
    with serving(PATIENT, env=mode.env(2)) as server, Line(server, "/flood") as slow:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.send(text({"id": "f", "data": {"mib": mib, "name": "patient"}}))
        pace, told = Pace(2 * MIB), False
        for number in range(drops):
            opcode, size = slow.begin()
            assert opcode is Opcode.TEXT
            assert json.loads(slow.read(size))["data"]["number"] == number
            pace.took(size)
            if not told and "patient closed" in gate.notes:
                server.signal(signal.SIGTERM)
                told = True
        assert told, "it has to have ended before all of it is read"
        assert slow.hear() == {"id": "f", "event": "reply", "data": {"drops": drops}}
        opcode, size = slow.begin()
        assert (opcode, Close.parse(slow.read(size))) == (Opcode.CLOSE, Close(1012, "draining"))
        server.wait()
    assert "still being sent" not in server.log
