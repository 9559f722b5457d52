"""The same sockets under other servers: what a peer is told does not depend on who carries it."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.test_rloop import wait_unready
from tests.e2e.test_sockets_frames import Line, text
from tests.e2e.test_sockets_slow import APP as IMPATIENT
from tests.e2e.test_websocket import APP, MIB, closing, connect, hear, say, wait_waiters
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, descriptors, serving, wait_descriptors

SERVERS = ["wsproto", "websockets", "websockets-sansio", "hypercorn"]


@contextmanager
def under(name: str, app: str = APP, *, drain_timeout: float = 20) -> Iterator[Server]:
    """That server, which drains for as long as one request holds it."""
    env = Mode.THREAD.env(4, drain_timeout=drain_timeout)
    if name == "hypercorn":
        with Server(app, env=env, module="tests.e2e.programs.under_hypercorn") as server:
            yield server
    else:
        with serving(app, "--ws", name, env=env) as server:
            yield server


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, gate: Gate) -> Iterator[Server]:
    with under(request.param) as server:
        yield server
    assert "Exception in ASGI" not in server.log


def test_requests_streams_and_bytes_are_answered(server: Server) -> None:
    with connect(server, "/echo", additional_headers={"x-request-id": "mine"}) as line:
        assert line.response is not None
        assert line.response.headers["x-request-id"] == "mine"
        say(line, "a", {"n": 1})
        assert hear(line) == {"id": "a", "event": "reply", "data": {"n": 1}}
        line.send(iter(['{"id": "f"', ', "data": {"n"', ": 7}}"]))
        assert hear(line)["data"] == {"n": 7}
    with connect(server, "/tell") as line:
        say(line, "t", {"bits": 3})
        heard = [hear(line)]
        while heard[-1]["event"] != "reply":
            heard.append(hear(line))
        assert [said["data"]["number"] for said in heard if said["event"] == "chunk"] == [0, 1, 2]
    with connect(server, "/shout") as line:
        for number, said in enumerate([b"abc", b"", b"x" * MIB], 1):
            line.send(said)
            heard_of = hear(line)
            assert (heard_of["id"], heard_of["blob"]["size"]) == (str(number), len(said))
            assert line.recv(10) == said.upper()


def test_malformed_frames_close_with_1008_and_large_ones_with_1009(server: Server) -> None:
    with connect(server, "/echo") as line:
        for _ in range(3):
            line.send("nonsense")
        assert closing(line) == 1008
    with connect(server, "/shout") as line:
        line.send(bytes(MIB + 1))
        assert closing(line) == 1009
    with connect(server, "/echo") as line:  # more than the server itself takes
        line.send(bytes(20 * MIB))
        assert closing(line) == 1009


def test_who_closes_in_the_middle_has_its_requests_cancelled(server: Server, gate: Gate) -> None:
    with connect(server, "/wait") as line:
        say(line, "a", {"name": "closed"})
        gate.wait("closed")
    wait_waiters(server, "wait", 0)
    gate.open("closed")
    gate.wait_note("closed cancelled")


@pytest.mark.parametrize("headers", [{"origin": "https://elsewhere.example"}, {"x-request-timeout": "soon"}])
def test_a_handshake_is_refused_with_a_status(server: Server, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as denied:
        connect(server, "/echo", additional_headers=headers)
    assert denied.value.response.status_code == (403 if "origin" in headers else 422)
    assert "origin" in headers or b'"detail"' in denied.value.response.body


@pytest.mark.parametrize("name", SERVERS)
def test_a_drain_refuses_what_is_new_answers_what_is_not_and_closes_with_1012(name: str, gate: Gate) -> None:
    with under(name) as server, connect(server, "/wait") as busy, connect(server, "/echo") as idle:
        say(busy, "running", {"name": name})
        gate.wait(name)
        if name == "hypercorn":  # whose stop waits for nobody's drain: it is begun before that
            httpx.post(f"{server.url}/drain").raise_for_status()
        else:
            server.signal(signal.SIGTERM)
            wait_unready(server)
        with pytest.raises(InvalidStatus) as denied:
            connect(server, "/echo")
        assert denied.value.response.status_code == 503
        assert 1 <= int(denied.value.response.headers["retry-after"]) <= 30
        assert b'"draining"' in denied.value.response.body
        gate.open(name)
        assert hear(busy) == {"id": "running", "event": "reply", "data": {"word": "go"}}
        assert closing(busy) == 1012
        assert closing(idle) == 1012
        if name == "hypercorn":
            server.signal(signal.SIGTERM)
        server.wait()
    assert "Exception in ASGI" not in server.log


@pytest.mark.parametrize("name", SERVERS)
def test_a_peer_that_does_not_read_stops_its_generator_then_loses_its_socket(name: str, gate: Gate) -> None:
    with under(name, IMPATIENT) as server, Line(server, "/flood") as idle:
        idle.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        idle.send(text({"id": "f", "data": {"mib": 64, "name": name}}))
        gate.wait_note(f"{name} closed")
        assert sum(noted.startswith(f"{name} ") for noted in gate.notes) < 16  # mebibytes, of 64
        wait_waiters(server, "flood", 0)


@pytest.mark.parametrize("name", SERVERS[:-1])
def test_a_peer_that_never_reads_is_rid_of_and_holds_up_no_stop(name: str, gate: Gate) -> None:
    with under(name, IMPATIENT) as server:
        before = descriptors(server)
        with Line(server, "/flood") as idle:
            idle.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            idle.send(text({"id": "f", "data": {"mib": 64, "name": f"{name} never"}}))
            gate.wait_note(f"{name} never closed")
            wait_descriptors(server, before)
            server.signal(signal.SIGTERM)
            server.wait()
    assert "Exception in ASGI" not in server.log


@pytest.mark.parametrize("name", SERVERS[:-1])
def test_a_stop_waits_for_nobody_who_leaves_a_whole_answer_unread(name: str) -> None:
    """It was sent before the stop, and nothing is waited for but the close, which comes after it."""
    with under(name, IMPATIENT, drain_timeout=1) as server, Line(server, "/large") as idle:
        idle.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        idle.send(text({"id": "l", "data": {"mib": 12}}))
        assert idle.hear()["blob"]["size"] == 12 * MIB
        wait_waiters(server, "large", 0)
        server.signal(signal.SIGTERM)
        server.wait()
    assert "Exception in ASGI" not in server.log
