"""Server-sent events, as real callers take them: in order, in time, and with one end."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.test_disconnect import wait_in_flight
from tests.e2e.test_rloop import wait_unready
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.pace import Pace
from tests.support.server import Server, descriptors, serving, wait_descriptors
from tests.support.wire import Wire

APP = "tests.e2e.programs.events_app:app"
BEHIND = "tests.e2e.programs.events_app:behind"
ACCEPT = {"accept": "text/event-stream"}
PATIENCE = 1.0
AT_ONCE: dict[str, str | None] = {"TEST_SLOWEST": str(2**40)}
"""However much was sent, patience ends as soon."""
SHORT: dict[str, str | None] = {"TEST_PATIENCE": str(PATIENCE), "TEST_KEEP_ALIVE": "0.2"} | AT_ONCE
ROW = 2**18
"""Bytes of one row of a flood."""

Event = tuple[str, Any]


@pytest.fixture(scope="module", params=[APP, BEHIND], ids=["bare", "behind BaseHTTPMiddleware"])
def server(request: pytest.FixtureRequest, mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(request.param, env=SHORT | mode.env(4)) as server:
        yield server


class Heard:
    """An answer that is still coming."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.lines = answer.iter_lines()

    def next(self) -> Event | None:
        """The next event, comments passed over; None: the answer is complete."""
        kind, data = "", []
        for line in self.lines:
            name, _, value = line.partition(":")
            if name == "event":
                kind = value.removeprefix(" ")
            elif name == "data":
                data.append(value.removeprefix(" "))
            elif not line and kind:
                return kind, json.loads("\n".join(data))
        return None

    def rest(self) -> list[Event]:
        return list(iter(self.next, None))


@contextmanager
def listening(server: Server, line: str, **options: Any) -> Iterator[Heard]:
    """A request that takes events. Leaving it closes its connection."""
    method, path = line.split()
    headers = {**ACCEPT, **options.pop("headers", {})}
    with httpx.stream(method, server.url + path, headers=headers, timeout=20, **options) as answer:
        yield Heard(answer)


def row(number: int) -> Event:
    return "chunk", {"number": number, "text": ""}


def table(rows: int) -> Event:
    return "reply", {"rows": rows}


def ended(heard: Heard, status: int, reason: str) -> dict[str, Any]:
    """Its next event is this problem, and the last; returns the document."""
    event = heard.next()
    assert event is not None
    kind, said = event
    assert (kind, said["status"], said["reason"]) == ("problem", status, reason)
    assert said["type"] == f"urn:offloop:problem:{reason}"
    assert said["request_id"] == heard.answer.headers["x-request-id"]
    assert heard.next() is None
    return dict(said)


# ---- what comes


def test_chunks_come_as_they_are_made_and_the_reply_is_the_last(server: Server, gate: Gate) -> None:
    with listening(server, "POST /tables", json={"name": "order"}, headers={"x-request-id": "mine"}) as heard:
        assert heard.answer.status_code == 200
        assert heard.answer.headers["content-type"] == "text/event-stream"
        assert heard.answer.headers["cache-control"] == "no-store"
        assert heard.answer.headers["x-request-id"] == "mine"
        for number in (1, 2, 3):
            assert heard.next() == row(number)
            gate.wait(f"order {number}")
            gate.open(f"order {number}")
        assert heard.rest() == [table(3)]
    wait_in_flight(server, "tabulate", 0)


def test_curl_sees_each_event_when_it_is_made(server: Server, gate: Gate) -> None:
    curl = ["curl", "-sSN", "-H", "Accept: text/event-stream", f"{server.url}/tables?name=curl&count=1"]
    with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = (line for line in process.stdout if line.strip() not in ("", ":"))
        assert [next(lines), next(lines)] == ["event: chunk\n", 'data: {"number":1,"text":""}\n']
        gate.wait("curl 1")
        gate.open("curl 1")
        assert list(lines) == ["event: reply\n", 'data: {"rows":1}\n']
    assert process.returncode == 0


def test_an_event_source_asks_by_get_and_its_query(server: Server) -> None:
    with listening(server, "GET /tables?count=2") as heard:
        assert heard.rest() == [row(1), row(2), table(2)]


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_whoever_does_not_ask_for_events_gets_the_reply_alone(server: Server, accept: str) -> None:
    answer = httpx.post(f"{server.url}/tables", json={"count": 2}, headers={"accept": accept})
    assert (answer.status_code, answer.json()) == (200, {"rows": 2})
    assert answer.headers["content-type"] == "application/json"


def test_a_body_of_bytes_is_answered_by_events_and_a_reply_of_bytes_is_in_base64(server: Server) -> None:
    headers = {"content-type": "text/plain", "content-disposition": 'attachment; filename="a.txt"'}
    with listening(server, "POST /pieces", content=b"a\n\xff", headers=headers) as heard:
        blob = {"media_type": "text/plain", "filename": "a.txt", "data": "YQr/"}
        assert heard.rest() == [row(1), row(2), ("reply", blob)]


@pytest.mark.parametrize("kind", ["image/png", "application/json"])
def test_chunks_of_bytes_are_in_base64_and_no_reply_is_null(server: Server, kind: str) -> None:
    with listening(server, "POST /cuts", content=b"\x00\n\xff", headers={"content-type": kind}) as heard:
        blob = {"media_type": kind, "filename": None}
        assert heard.rest() == [
            ("chunk", blob | {"data": "AA=="}), ("chunk", blob | {"data": "/w=="}), ("reply", None),
        ]  # fmt: skip


def test_messages_of_several_classes_are_json_each(server: Server) -> None:
    with listening(server, "POST /sorted", json={}) as heard:
        assert heard.rest() == [row(1), ("chunk", {"text": "a note"}), table(1)]


def test_a_node_tells_how_far_it_is(server: Server, gate: Gate) -> None:
    with listening(server, "POST /progress", json={"name": "far", "count": 4}) as heard:
        assert heard.next() == ("progress", {"done": 0.0, "total": 4.0, "note": "the first\nof all"})
        gate.wait("far told")
        gate.open("far told")
        done = ("progress", {"done": 4.0, "total": 4.0, "note": None})
        assert heard.rest() == [row(1), done, table(1)]


def test_a_silence_is_filled_with_comments(server: Server, gate: Gate) -> None:
    with listening(server, "POST /tables", json={"name": "silent", "count": 1}) as heard:
        assert heard.next() == row(1)
        assert [next(heard.lines) for _ in range(4)] == [":", "", ":", ""]
        gate.open("silent 1")
        assert heard.rest() == [table(1)]


# ---- what it may end with


def test_a_problem_of_a_node_comes_after_its_chunks(server: Server, gate: Gate) -> None:
    with listening(server, "POST /tables", json={"name": "torn"}) as heard:
        assert heard.next() == row(1)
        gate.wait("torn 1")
        gate.open("torn 1", "tear")
        said = ended(heard, 422, "torn")
        assert (said["detail"], said["row"], said["retry_safe"]) == ("in two", 1, False)


def test_a_failure_of_a_node_comes_after_its_chunks_and_says_nothing_of_itself(server: Server, gate: Gate) -> None:
    with listening(server, "POST /tables", json={"name": "failed"}) as heard:
        assert heard.next() == row(1)
        gate.wait("failed 1")
        gate.open("failed 1", "fail")
        assert "secret" not in json.dumps(ended(heard, 500, "node-failed"))


def test_a_payload_that_does_not_validate_is_a_problem_in_fastapis_shape(server: Server) -> None:
    with listening(server, "POST /tables", json={"count": -1}) as heard:
        [(kind, said)] = heard.rest()
    assert kind == "problem"
    assert said["detail"][0]["loc"] == ["body", "count"]
    assert set(said["detail"][0]) >= {"type", "loc", "msg", "input"}


def test_a_deadline_in_the_middle_of_a_stream_ends_it(server: Server, gate: Gate) -> None:
    with listening(server, "POST /tables", json={"name": "late"}, headers={"x-request-timeout": "0.4"}) as heard:
        assert heard.next() == row(1)
        assert ended(heard, 504, "deadline-exceeded")["started"] is True
    gate.open("late 1")
    gate.wait_note("late closed")


def test_a_worker_that_dies_in_the_middle_of_a_stream_ends_it_even_if_it_may_be_done_again(
    server: Server, mode: Mode, gate: Gate
) -> None:
    if mode is Mode.THREAD:
        pytest.skip("its loops are the server's own")
    with listening(server, "POST /again", json={"name": "dead"}) as heard:
        assert heard.next() == row(1)  # it would come twice
        gate.wait("dead 1")
        gate.open("dead 1", "die")
        said = ended(heard, 502, "worker-lost")
        assert (said["started"], said["retry_safe"]) == (True, True)
    assert gate.holds("dead 1") == 0


def test_what_is_refused_before_it_begins_is_plain_http(server: Server, gate: Gate) -> None:
    def refused(line: str, **options: Any) -> tuple[int, str]:
        with listening(server, line, **options) as heard:
            assert heard.answer.headers["content-type"] == "application/problem+json"
            heard.answer.read()
            return heard.answer.status_code, heard.answer.json()["reason"]

    text = {"content-type": "text/plain"}
    assert refused("POST /tables", content=b"{}", headers=text) == (415, "unsupported-media-type")
    assert refused("POST /pieces", content=b"x" * (2**20 + 1), headers=text) == (413, "payload-too-large")
    grown = iter([b"x" * 2**19] * 3)  # it is not declared: it was admitted, and its body is being read
    assert refused("POST /pieces", content=grown, headers=text) == (413, "payload-too-large")
    with listening(server, "POST /narrow", json={"name": "one", "count": 1}) as heard:
        gate.wait("one 1")
        assert refused("POST /narrow", json={}) == (429, "endpoint-busy")
        gate.open("one 1")
        assert heard.rest() == [row(1), table(1)]


def test_dependencies_hold_for_events(server: Server) -> None:
    with listening(server, "POST /keyed/tables", json={"count": 1}) as heard:
        assert heard.answer.status_code == 401
    with listening(server, "POST /keyed/tables", json={"count": 1}, headers={"x-key": "open sesame"}) as heard:
        assert heard.rest() == [row(1), table(1)]


# ---- callers that leave, and callers that do not read


def test_when_a_caller_leaves_its_node_is_told_and_closed(server: Server, gate: Gate) -> None:
    with listening(server, "POST /watched", json={"name": "left"}) as heard:
        assert heard.next() == row(1)
    gate.wait_note("left saw it")
    gate.wait_note("left closed")
    assert "left went on" not in gate.notes
    wait_in_flight(server, "watched", 0)


def test_work_that_is_to_finish_makes_all_its_messages_though_nobody_takes_them(server: Server, gate: Gate) -> None:
    with listening(server, "POST /steadfast", json={"name": "alone", "count": 40}) as heard:
        assert heard.next() is not None
        gate.wait("alone 1")
    gate.open("alone 1")
    gate.wait_note("alone closed")
    assert made(gate, "alone") == 40
    wait_in_flight(server, "steadfast", 0)


def test_a_caller_that_keeps_up_gets_much_more_than_may_be_on_its_way(server: Server) -> None:
    with listening(server, "POST /floods", json={"count": 20}) as heard:
        heard_of = [said["number"] for kind, said in heard.rest() if kind == "chunk"]
    assert heard_of == list(range(1, 21))
    with listening(server, "POST /tables", json={"count": 4000}) as heard:
        assert heard.rest() == [*map(row, range(1, 4001)), table(4000)]


def test_a_caller_that_does_not_read_is_waited_for_and_then_given_up(server: Server, gate: Gate) -> None:
    name, much = "unread", 400
    with unread(server, "POST /floods", name, much) as wire:
        gate.wait(f"{name} 1")
        gate.open(f"{name} 1")
        with listening(server, "POST /tables", json={"count": 2}) as heard:  # the others are served meanwhile
            assert heard.rest() == [row(1), row(2), table(2)]
        assert f"{name} closed" not in gate.notes
        gate.wait_note(f"{name} closed")
        assert made(gate, name) * ROW < 2**20 + 16 * 2**20  # what systems hold of a connection is a few MiB
        wait_in_flight(server, "flooded", 0)
        assert b"event: reply" not in left_of(wire)


@contextmanager
def unread(server: Server, line: str, name: str, count: int) -> Iterator[Wire]:
    """A request for events that its caller has room for few of, and reads none of."""
    with Wire(server.port) as wire:
        body = json.dumps({"name": name, "count": count}).encode()
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        wire.head(line, content_type="application/json", content_length=str(len(body)), **ACCEPT)
        wire.send(body)
        yield wire


def test_work_that_is_to_finish_does_so_though_its_caller_is_given_up(server: Server, gate: Gate) -> None:
    with unread(server, "POST /steadfast", "given up", 100):
        gate.wait("given up 1")
        gate.open("given up 1")
        gate.wait_note("given up closed")
        assert made(gate, "given up") == 100
        wait_in_flight(server, "steadfast", 0)


@pytest.mark.parametrize("app", [APP, BEHIND], ids=["bare", "behind BaseHTTPMiddleware"])
def test_a_slow_but_steady_reader_gets_all_of_it(app: str, mode: Mode, gate: Gate) -> None:
    """What is on its way to it takes longer to read than patience lasts: a caller is given more for more."""
    patience, rate, count = 0.3, 1.5 * 2**20, 24
    with (
        serving(app, env={"TEST_PATIENCE": str(patience)} | mode.env(2)) as server,
        unread(server, "POST /floods", "", count) as wire,
    ):
        pace, got = Pace(rate), bytearray()
        while not got.endswith(b"\r\n0\r\n\r\n"):
            piece = wire.socket.recv(2**15)
            assert piece, f"cut off after {len(got)} bytes"
            got += piece
            pace.took(len(piece))
        assert got.count(b"event: chunk") == count
        assert b"event: reply" in got
    assert "ERROR" not in server.log


def test_a_caller_that_never_reads_is_cut_off_and_holds_up_no_stop(mode: Mode, gate: Gate) -> None:
    with serving(APP, env=SHORT | {"TEST_PATIENCE": "0.3"} | mode.env(2)) as server:
        before = descriptors(server)
        with unread(server, "POST /floods", "never read", 100):
            gate.wait("never read 1")
            gate.open("never read 1")
            gate.wait_note("never read closed")
            wait_descriptors(server, before)
            server.signal(signal.SIGTERM)
            server.wait()
        assert "without completing response" not in server.log


def test_a_caller_that_never_reads_the_last_event_is_cut_off_too(mode: Mode) -> None:
    with serving(APP, env=SHORT | {"TEST_PATIENCE": "0.3"} | mode.env(2)) as server:
        before = descriptors(server)
        with unread(server, "POST /piles", "", 40) as wire:
            wire.socket.recv(1, socket.MSG_PEEK)  # it has begun
            wait_descriptors(server, before)
            server.signal(signal.SIGTERM)
            server.wait()


def made(gate: Gate, name: str) -> int:
    """How many rows its node had made when it was closed."""
    [count] = [told.removeprefix(f"{name} made ") for told in gate.notes if told.startswith(f"{name} made ")]
    return int(count)


def left_of(wire: Wire) -> bytes:
    """All that comes until the connection is closed; a middleware in between may make a complete answer of it."""
    left = bytearray()
    while not left.endswith(b"\r\n0\r\n\r\n") and (got := wire.socket.recv(2**20)):
        left += got
    return bytes(left)


# ---- the end of the server


def test_a_drain_lets_a_stream_come_to_its_end_and_refuses_the_next(mode: Mode, gate: Gate) -> None:
    with (
        serving(APP, env=mode.env(2, drain_timeout=15)) as server,
        listening(server, "GET /tables?name=drained&count=2") as heard,
    ):
        assert heard.next() == row(1)
        server.signal(signal.SIGTERM)
        wait_unready(server)
        with listening(server, "GET /tables?name=drained") as refused:
            refused.answer.read()
            assert (refused.answer.status_code, refused.answer.json()["reason"]) == (503, "draining")
            assert refused.answer.headers["retry-after"]
        for number in (1, 2):
            gate.wait(f"drained {number}")
            gate.open(f"drained {number}")
        assert heard.rest() == [row(2), table(2)]
        server.wait()


def test_a_stream_that_outlasts_the_drain_is_cut_with_a_problem(mode: Mode, gate: Gate) -> None:
    with (
        serving(APP, env=mode.env(2, drain_timeout=0.5)) as server,
        listening(server, "POST /tables", json={"name": "cut"}) as heard,
    ):
        assert heard.next() == row(1)
        gate.wait("cut 1")
        server.signal(signal.SIGTERM)
        assert ended(heard, 504, "drain-cut")["started"] is True
        server.wait()
