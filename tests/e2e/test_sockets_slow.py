"""Peers that read slowly, and peers that do not read: who loses the socket and who keeps it, over a real connection."""

import json
import socket
from collections.abc import Iterator

import pytest
from websockets.frames import Opcode
from websockets.sync.client import ClientConnection

from tests.e2e.test_sockets_frames import Line, text
from tests.e2e.test_websocket import MIB, connect, hear, wait_waiters
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving

APP = "tests.e2e.programs.sockets_impatient_app:app"
"""Its patience is 0.3 s."""
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
