"""Floods of small messages to callers who keep up: the others have their turn all the while."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.test_sockets_frames import Line, text
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Wire

APP = "tests.e2e.programs.turns_app:app"
DROPS = 10_000
MOST = 512
"""Messages in one turn, of all callers together. What is on its way to a single one may be 2,048."""


@pytest.fixture(scope="module")
def server(mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(APP, env=mode.env(4)) as server:
        yield server


def over_websocket(server: Server) -> None:
    with Line(server, "/drizzle") as line:
        line.send(text({"id": "d", "data": {"drops": DROPS}}))
        until(line, b'"reply"')


def as_events(server: Server) -> None:
    body = json.dumps({"drops": DROPS}).encode()
    with Wire(server.port) as wire:
        wire.head(
            "POST /drizzle", content_type="application/json", content_length=str(len(body)), accept="text/event-stream"
        )
        wire.send(body)
        until(wire, b"event: reply")


def until(wire: Wire, end: bytes) -> None:
    """Take what comes as fast as can be, to the end: reading it would take longer than sending it."""
    tail = b""
    while end not in tail:
        got = wire.socket.recv(2**20)
        assert got, "the connection has ended"
        tail = (tail + got)[-4096:]


@pytest.mark.parametrize("take", [over_websocket, as_events])
@pytest.mark.parametrize("callers", [1, 4])
def test_a_flood_to_who_keeps_up_leaves_the_others_their_turn(
    server: Server, take: Callable[[Server], None], callers: int
) -> None:
    take(server)  # what is done once for all is done now
    httpx.post(f"{server.url}/turns").raise_for_status()
    with ThreadPoolExecutor(callers) as threads:
        for taken in [threads.submit(take, server) for _ in range(callers)]:
            taken.result()
    told = httpx.get(f"{server.url}/turns").json()
    assert told["sent"] >= callers * DROPS
    assert told["most"] <= MOST, told
