"""WebSocket, end to end: a real client, a real uvicorn, in every mode."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_sync

from tests.e2e.test_promises import outcomes, verdicts
from tests.e2e.test_rloop import wait_unready
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving

APP = "tests.e2e.programs.sockets_app:app"
MIB = 2**20


@pytest.fixture(scope="module")
def server(mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(APP, env=mode.env(4, per_worker=2)) as server:
        yield server


def address(server: Server, path: str) -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


def connect(server: Server, path: str, **options: Any) -> ClientConnection:
    socket: ClientConnection = connect_sync(address(server, path), close_timeout=1, **options)
    return socket


def say(socket: ClientConnection, id: str, data: Any) -> None:
    socket.send(json.dumps({"id": id, "data": data}))


def hear(socket: ClientConnection) -> Any:
    text = socket.recv(10)
    assert isinstance(text, str)
    return json.loads(text)


def closing(socket: ClientConnection) -> int:
    """The code that it is closed with; what is still said before is passed over."""
    with pytest.raises(ConnectionClosed) as closed:
        list(iter(socket.recv, None))
    assert closed.value.rcvd is not None, "closed without a word"
    return closed.value.rcvd.code


def waiters(server: Server, name: str) -> int:
    count: int = httpx.get(f"{server.url}/offloop/status").json()["endpoints"][name]["in_flight"]
    return count


def wait_waiters(server: Server, name: str, count: int) -> None:
    for _ in range(2000):
        if waiters(server, name) == count:
            return
    raise AssertionError(f"{name} has {waiters(server, name)} waiters, not {count}")


# ---- requests and answers


def test_a_frame_is_a_request_and_is_answered_by_its_id(server: Server) -> None:
    with connect(server, "/echo") as socket:
        say(socket, "a", {"n": 1})
        assert hear(socket) == {"id": "a", "event": "reply", "data": {"n": 1}}


def test_many_are_in_flight_and_answered_as_they_end(server: Server, gate: Gate) -> None:
    with connect(server, "/wait") as socket:
        say(socket, "first", {"name": "ws slow"})
        say(socket, "second", {"name": "ws quick"})
        gate.wait("ws slow")
        gate.wait("ws quick")
        gate.open("ws quick")
        assert hear(socket)["id"] == "second"
        gate.open("ws slow")
        assert hear(socket) == {"id": "first", "event": "reply", "data": {"word": "go"}}


def test_stream_messages_come_in_order_and_as_they_are_made_then_the_reply(server: Server, gate: Gate) -> None:
    with connect(server, "/tell") as socket:
        say(socket, "t", {"bits": 3, "name": "ws bits"})
        for number in range(3):
            while (heard := hear(socket))["event"] == "progress":
                assert heard == {"id": "t", "event": "progress", "done": number, "total": 3, "note": None}
            assert heard == {"id": "t", "event": "chunk", "data": {"number": number}}
            gate.wait("ws bits")  # the node has not gone on
            gate.open("ws bits")
        assert hear(socket) == {"id": "t", "event": "reply", "data": {"bits": 3}}


def test_a_binary_frame_is_a_request_numbered_from_one_and_a_blob_follows_its_announcement(server: Server) -> None:
    with connect(server, "/shout") as socket:
        for number, (said, loud) in enumerate([(b"abc", b"ABC"), (b"", b""), (b"x" * MIB, b"X" * MIB)], 1):
            socket.send(said)
            blob = {"media_type": "text/plain", "filename": "capitals.txt", "size": len(loud)}
            assert hear(socket) == {"id": str(number), "event": "reply", "blob": blob}
            assert socket.recv(10) == loud


def test_a_frame_in_fragments_is_one_request(server: Server) -> None:
    with connect(server, "/echo") as socket:
        socket.send(iter(['{"id": "f"', ', "data": {"n"', ": 7}}"]))
        assert hear(socket)["data"] == {"n": 7}


def test_failures_are_problems_of_their_id_and_the_socket_stays(server: Server) -> None:
    with connect(server, "/echo", additional_headers={"x-request-id": "mine"}) as socket:
        say(socket, "bad", {"n": "many"})
        invalid = hear(socket)
        assert (invalid["id"], invalid["event"], invalid["status"]) == ("bad", "problem", 422)
        assert invalid["problem"]["detail"][0]["loc"] == ["body", "n"]
        say(socket, "odd", {"n": -1})
        odd = hear(socket)
        assert (odd["id"], odd["status"], odd["problem"]["reason"], odd["problem"]["n"]) == ("odd", 409, "odd", -1)
        assert odd["problem"]["request_id"] == "mine"
        say(socket, "good", {"n": 1})
        assert hear(socket)["event"] == "reply"


def test_a_cancelled_request_ends_at_once_and_its_node_knows(server: Server, gate: Gate) -> None:
    with connect(server, "/wait") as socket:
        say(socket, "c", {"name": "ws unwanted"})
        gate.wait("ws unwanted")
        socket.send('{"id": "c", "event": "cancel"}')
        assert hear(socket)["problem"]["reason"] == "cancelled"
        wait_waiters(server, "wait", 0)
        gate.open("ws unwanted")
        gate.wait_note("ws unwanted cancelled")


def test_http_and_sockets_share_the_endpoints_limit_and_each_is_refused_by_itself(server: Server, gate: Gate) -> None:
    with connect(server, "/wait") as first, connect(server, "/wait") as second:
        for number in range(4):
            say(first, str(number), {"name": "ws full"})
        gate.wait("ws full", 4)
        say(second, "late", {"name": "ws full"})
        refused = hear(second)
        assert (refused["id"], refused["status"], refused["problem"]["reason"]) == ("late", 429, "endpoint-busy")
        assert refused["retry_after"] >= 1
        with pytest.raises(InvalidStatus) as denied:  # a full house is told from before the door
            connect(server, "/wait")
        assert denied.value.response.status_code == 429
        assert json.loads(denied.value.response.body)["reason"] == "endpoint-busy"
        assert int(denied.value.response.headers["retry-after"]) >= 1
        gate.open("ws full")
        assert {hear(first)["id"] for _ in range(4)} == {"0", "1", "2", "3"}
        say(second, "again", {"name": "ws room"})
        gate.wait("ws room")
        gate.open("ws room")
        assert hear(second)["event"] == "reply"


# ---- ends


def test_too_large_a_request_closes_with_1009(server: Server) -> None:
    with connect(server, "/shout") as socket:
        socket.send(bytes(MIB + 1))
        assert closing(socket) == 1009
    with connect(server, "/echo") as socket:
        say(socket, "x", {"n": "9" * MIB})
        assert closing(socket) == 1009
    with connect(server, "/echo") as socket:  # more than the server itself takes
        socket.send(bytes(20 * MIB))
        assert closing(socket) == 1009


def test_whoever_leaves_has_its_requests_cancelled(server: Server, gate: Gate) -> None:
    with connect(server, "/wait") as socket:
        say(socket, "a", {"name": "ws left"})
        gate.wait("ws left")
    wait_waiters(server, "wait", 0)
    gate.open("ws left")
    gate.wait_note("ws left cancelled")


def test_a_connection_that_breaks_in_the_middle_has_its_requests_cancelled(server: Server, gate: Gate) -> None:
    with connect(server, "/wait") as line:
        say(line, "a", {"name": "ws broken"})
        gate.wait("ws broken")
        line.socket.sendall(b"\x81\xfe")  # the beginning of a frame
        line.socket.shutdown(socket.SHUT_RDWR)
        wait_waiters(server, "wait", 0)
    gate.open("ws broken")
    gate.wait_note("ws broken cancelled")


def test_under_finish_the_work_goes_on_when_its_caller_has_left(server: Server, gate: Gate) -> None:
    with connect(server, "/keep") as socket:
        say(socket, "a", {"name": "ws kept"})
        gate.wait("ws kept")
    gate.open("ws kept")
    gate.wait_note("ws kept kept")
    wait_waiters(server, "keep", 0)


def test_a_peer_that_vanishes_without_a_word_is_found_by_the_servers_ping(mode: Mode, gate: Gate) -> None:
    args = ("--ws-ping-interval", "0.3", "--ws-ping-timeout", "1")
    with serving(APP, *args, env=mode.env(2)) as server, connect(server, "/wait") as line:
        say(line, "a", {"name": "ws vanished"})
        gate.wait("ws vanished")
        line.protocol.receive_data = lambda data: None  # type: ignore[method-assign]  # nor does it answer a ping
        wait_waiters(server, "wait", 0)
        gate.open("ws vanished")
        gate.wait_note("ws vanished cancelled")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_answers_every_id_and_closes_with_1012(mode: Mode, gate: Gate, number: signal.Signals) -> None:
    name = f"ws drained {number}"
    with (
        serving(APP, env=mode.env(1)) as server,
        connect(server, "/wait") as busy,
        connect(server, "/echo") as idle,
        connect(server, "/echo") as late,
    ):
        say(busy, "running", {"name": name})
        gate.wait(name)
        say(busy, "queued", {"name": f"{name} next"})
        wait_waiters(server, "wait", 2)
        server.signal(number)
        wait_unready(server)
        say(late, "late", {"n": 1})
        refused = hear(late)
        assert (refused["status"], refused["problem"]["reason"]) == (503, "draining")
        assert 1 <= refused["retry_after"] <= 30
        assert closing(late) == 1012  # nothing is left for it to wait for
        with pytest.raises(InvalidStatus) as denied:
            connect(server, "/echo")
        assert denied.value.response.status_code == 503
        assert 1 <= int(denied.value.response.headers["retry-after"]) <= 30
        gate.open(name)
        assert hear(busy) == {"id": "running", "event": "reply", "data": {"word": "go"}}
        gate.wait(f"{name} next")
        gate.open(f"{name} next")
        assert hear(busy)["id"] == "queued"
        assert closing(busy) == 1012
        assert closing(idle) == 1012
        server.wait()
    assert "Traceback" not in server.log


def test_a_drains_budget_ends_what_is_left_with_a_problem(mode: Mode, gate: Gate) -> None:
    with serving(APP, env=mode.env(1, drain_timeout=0.5)) as server, connect(server, "/wait") as socket:
        say(socket, "a", {"name": "ws cut"})
        gate.wait("ws cut")
        say(socket, "b", {"name": "ws cut"})
        wait_waiters(server, "wait", 2)
        server.signal(signal.SIGTERM)
        heard = {said["id"]: said for said in (hear(socket), hear(socket))}
        assert (heard["a"]["status"], heard["b"]["status"]) == (504, 503)
        assert {said["problem"]["reason"] for said in heard.values()} == {"drain-cut"}
        assert closing(socket) == 1012
        gate.open("ws cut")


def test_a_workers_death_is_the_problem_of_what_it_ran(mode: Mode, gate: Gate) -> None:
    if mode is not Mode.PROCESS:
        pytest.skip("a thread dies with its process")
    with serving(APP, env=mode.env(1)) as server, connect(server, "/wait") as socket:
        say(socket, "a", {"name": "ws died"})
        gate.wait("ws died")
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        heard = hear(socket)
        assert (heard["id"], heard["status"], heard["problem"]["reason"]) == ("a", 502, "worker-lost")


# ---- who may


@pytest.mark.parametrize(
    ("origin", "opened"),
    [
        (None, True),
        ("http://127.0.0.1:{port}", True),
        ("https://127.0.0.1:{port}", True),
        ("http://127.0.0.1", False),
        ("https://elsewhere.example", False),
        ("null", False),
    ],
)
def test_another_origin_is_refused_before_the_socket_is_accepted(
    server: Server, origin: str | None, opened: bool
) -> None:
    given = None if origin is None else origin.format(port=server.port)
    if opened:
        with connect(server, "/echo", origin=given) as socket:
            say(socket, "a", {"n": 1})
            assert hear(socket)["event"] == "reply"
    else:
        with pytest.raises(InvalidStatus) as denied:
            connect(server, "/echo", origin=given)
        assert denied.value.response.status_code == 403


def test_dependencies_of_the_inclusion_hold_before_the_socket_is_accepted(server: Server) -> None:
    with pytest.raises(InvalidStatus) as denied:
        connect(server, "/guarded/echo")
    assert denied.value.response.status_code == 403
    with connect(server, "/guarded/echo", additional_headers={"x-key": "secret"}) as socket:
        say(socket, "a", {"n": 1})
        assert hear(socket)["event"] == "reply"


# ---- many, and one that does not read


async def test_three_hundred_sockets_at_once_each_get_their_own(server: Server) -> None:
    async def one(number: int) -> None:
        # One at a time, and again where the house is full: a client's ordinary loop.
        async with connect_async(address(server, "/tell"), open_timeout=30) as socket:
            while True:
                await socket.send(json.dumps({"id": str(number), "data": {"bits": 2}}))
                bits = []
                while (said := json.loads(await socket.recv()))["event"] not in ("reply", "problem"):
                    assert said["id"] == str(number)
                    if said["event"] == "chunk":
                        bits.append(said["data"]["number"])
                assert said["id"] == str(number)
                if said["event"] == "reply":
                    assert bits == [0, 1]
                    return
                assert said["problem"]["reason"] == "queue-full"

    async with asyncio.timeout(50):
        await asyncio.gather(*(one(number) for number in range(300)))


@contextmanager
def unread(server: Server, name: str) -> Iterator[ClientConnection]:
    """A socket with a flood that its peer does not read: it has room for little, and so it is full at once."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    line.connect(("127.0.0.1", server.port))
    options: dict[str, Any] = {"sock": line, "max_queue": 1, "max_size": None, "compression": None}
    with connect(server, "/flood", **options) as flooded:
        say(flooded, "f", {"mib": 64, "name": name})
        yield flooded


def test_a_flood_to_a_peer_that_does_not_read_stops_its_generator_and_nobody_else(server: Server, gate: Gate) -> None:
    with unread(server, "ws flood") as flooded, connect(server, "/echo") as other:
        gate.wait_note("ws flood 1")
        for n in range(300):
            say(other, str(n), {"n": n})
            assert hear(other)["data"] == {"n": n}
        poured = sum(noted.startswith("ws flood ") for noted in gate.notes)
        assert poured < 16  # of 64: what the kernel and the window hold, and no more
        for number in range(64 * 16):
            assert hear(flooded)["data"]["number"] == number
        assert hear(flooded) == {"id": "f", "event": "reply", "data": {"drops": 64 * 16}}


@pytest.mark.slow
def test_a_peer_that_goes_on_not_reading_loses_its_socket_and_its_generator_is_closed(
    server: Server, gate: Gate
) -> None:
    with unread(server, "ws stalled") as flooded:
        gate.wait_note("ws stalled closed", 30)
        wait_waiters(server, "flood", 0)
        flooded.socket.shutdown(socket.SHUT_RDWR)


# ---- the promises


def test_what_comes_over_sockets_keeps_every_promise(mode: Mode, gate: Gate, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    with serving(APP, env=mode.env(2, event_log=log, drain_timeout=1)) as server:
        with connect(server, "/tell") as many:
            for number in range(40):
                say(many, str(number), {"bits": 5 if number % 4 else -1})
            ended = 0
            while ended < 40:  # some by the socket's own limit
                ended += hear(many)["event"] in ("reply", "problem")
        with connect(server, "/keep") as kept, connect(server, "/wait") as left:
            say(kept, "a", {"name": "ws promised"})
            say(left, "a", {"name": "ws promised"})
            gate.wait("ws promised", 2)
        wait_waiters(server, "wait", 0)
        gate.open("ws promised")
        wait_waiters(server, "keep", 0)
        with connect(server, "/wait") as cut:
            say(cut, "a", {"name": "ws promised"})
            gate.wait("ws promised")
            say(cut, "b", {"name": "ws promised"})
            cut.send('{"id": "b", "event": "cancel"}')
            assert hear(cut)["problem"]["reason"] == "cancelled"
            server.signal(signal.SIGTERM)
            assert hear(cut)["problem"]["reason"] == "drain-cut"
            assert closing(cut) == 1012
            gate.open("ws promised")
        server.wait()
    assert set(verdicts(log).values()) <= {"held", "not checkable"}
    assert verdicts(log)[2] == verdicts(log)[3] == verdicts(log)[8] == "held"
    met = outcomes(log)
    assert {"ok", "cancelled", "drain-cut"} <= met["terminal"].keys()
    assert met["disconnect"].keys() == {"disconnect", "cancelled"}
