"""Every kind of frame, over a real connection, in every mode: what is said of it, and that the server lives."""

import json
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.sync.client import ClientConnection

from tests.e2e.test_rloop import wait_unready
from tests.e2e.test_websocket import APP, MIB, closing, connect, hear, say, wait_waiters, waiters
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.server import Server, serving
from tests.support.wire import Wire

OWN = ("Invalid UTF-8 sequence received", "ASGI callable returned without completing handshake")
"""What uvicorn's log says of such bytes, with a traceback, and of every refused handshake: no faults of ours."""


@pytest.fixture(scope="module")
def server(mode: Mode, gate: Gate) -> Iterator[Server]:
    with serving(APP, env=mode.env(4, per_worker=2)) as server:
        yield server
        for name in ("echo", "shout", "tell", "wait", "keep", "drizzle"):
            wait_waiters(server, name, 0)
    assert not [line for line in server.lines if "ERROR" in line and not any(own in line for own in OWN)]
    assert server.log.count("Traceback") == server.log.count(OWN[0]), server.log
    assert "never retrieved" not in server.log


def frame(opcode: Opcode, data: bytes, *, last: bool = True) -> bytes:
    """The bytes of one frame of a client's."""
    return Frame(opcode, data, fin=last).serialize(mask=True)


def text(said: Any) -> bytes:
    return frame(Opcode.TEXT, json.dumps(said).encode())


class Line(Wire):
    """A WebSocket whose every byte the test decides, in both directions."""

    def __init__(self, server: Server, path: str) -> None:
        super().__init__(server.port)
        self.head(
            f"GET {path}", connection="Upgrade", upgrade="websocket", sec_websocket_version="13",
            sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAA==",
        )  # fmt: skip
        assert self.answer().status == 101

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        assert len(data) == size, "the connection has ended"
        return data

    def begin(self) -> tuple[Opcode, int]:
        """The head of the next frame: what it is, and its bytes, which are still to be read."""
        first, size = self.read(2)
        if size >= 126:
            size = int.from_bytes(self.read(2 if size == 126 else 8))
        return Opcode(first & 15), size

    def hear(self) -> Any:
        opcode, size = self.begin()
        assert opcode is Opcode.TEXT
        return json.loads(self.read(size))

    def close_code(self) -> int:
        """Of the next close frame; what comes before it is passed over."""
        while True:
            opcode, size = self.begin()
            data = self.read(size)
            if opcode is Opcode.CLOSE:
                return Close.parse(data).code


def memory(server: Server, of: str) -> int:
    """Bytes of the server process: `VmRSS` now, `VmHWM` at the most so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{of}:")[2].split()[0]) * 1024


# ---- frames that are none


@pytest.mark.parametrize(
    "said",
    [
        "",
        " ",
        "{}",
        "null",
        "\0",
        "[" * 100_000,
        '{"id":' * 100_000,
        b"",
        b"\xff\xfe",
        b'{"id": "a", "data": {"n": 1}}',
    ],
    ids=lambda said: repr(said[:12]),
)
def test_what_is_no_frame_of_ours_is_a_problem_without_an_id(server: Server, said: str | bytes) -> None:
    with connect(server, "/echo") as socket:
        socket.send(said)
        heard = hear(socket)
        assert (heard["event"], heard["status"], "id" in heard) == ("problem", 422, False)
        say(socket, "good", {"n": 1})
        assert hear(socket)["id"] == "good"


def test_text_where_bytes_are_due_is_a_problem_of_its_id_and_takes_no_number(server: Server) -> None:
    with connect(server, "/shout") as socket:
        for id in ("1", "x"):
            say(socket, id, "text")
            heard = hear(socket)
            assert (heard["id"], heard["event"], heard["status"]) == (id, "problem", 422)
        socket.send(b"abc")
        assert hear(socket)["id"] == "1"
        assert socket.recv(10) == b"ABC"


def test_text_that_is_no_utf_8_closes_with_1007_and_cancels_what_is_asked(server: Server, gate: Gate) -> None:
    with Line(server, "/wait") as line:
        line.send(text({"id": "a", "data": {"name": "utf"}}))
        gate.wait("utf")
        line.send(frame(Opcode.TEXT, b'{"id": "\xc3\x28", "data": {}}'))
        assert line.close_code() == 1007
    wait_waiters(server, "wait", 0)
    gate.open("utf")
    gate.wait_note("utf cancelled")


def test_a_close_in_the_middle_of_a_fragmented_message_cancels_what_is_asked(server: Server, gate: Gate) -> None:
    with Line(server, "/wait") as line:
        line.send(text({"id": "a", "data": {"name": "middle"}}))
        gate.wait("middle")
        line.send(frame(Opcode.TEXT, b'{"id": "b", ', last=False) + frame(Opcode.CONT, b'"data": {', last=False))
        line.send(frame(Opcode.CLOSE, Close(1000, "").serialize()))
        assert line.close_code() in (1000, 1002)  # a server may call that a breach of the protocol
    wait_waiters(server, "wait", 0)
    gate.open("middle")
    gate.wait_note("middle cancelled")


def test_fragments_of_one_byte_with_a_ping_between_them_are_one_request(server: Server) -> None:
    whole = b'{"id": "f", "data": {"n": 7}}'
    with Line(server, "/echo") as line:
        for number in range(len(whole)):
            line.send(
                frame(Opcode.CONT if number else Opcode.TEXT, whole[number : number + 1], last=False)
                + (frame(Opcode.PING, b"p") if number == 5 else b"")
            )
        line.send(frame(Opcode.CONT, b""))
        assert line.begin() == (Opcode.PONG, 1)
        line.read(1)
        assert line.hear() == {"id": "f", "event": "reply", "data": {"n": 7}}


# ---- size


@pytest.mark.parametrize("size", [MIB - 1, MIB])
def test_a_request_of_the_bound_is_answered(server: Server, size: int) -> None:
    with connect(server, "/shout") as socket:
        socket.send(bytes(size))
        assert hear(socket)["blob"]["size"] == size
    with connect(server, "/echo") as socket:
        socket.send('{"id": "a", "data": {"n": 1' + " " * (size - len('{"n": 1}')) + "}}")
        assert hear(socket)["data"] == {"n": 1}


def test_a_request_of_one_byte_more_closes_with_1009(server: Server) -> None:
    with connect(server, "/shout") as socket:
        socket.send(bytes(MIB + 1))
        assert closing(socket) == 1009
    with connect(server, "/echo") as socket:
        socket.send('{"id": "a", "data": {"n": 1' + " " * (MIB + 1 - len('{"n": 1}')) + "}}")
        assert closing(socket) == 1009


@pytest.mark.parametrize("parts", [1, 100])
def test_a_hundred_mebibytes_are_refused_and_never_held(server: Server, parts: int) -> None:
    before = memory(server, "VmHWM")
    piece = bytes(100 * MIB // parts)
    with connect(server, "/shout", compression=None) as socket:
        try:
            socket.send(piece if parts == 1 else (piece for _ in range(parts)))
            assert closing(socket) == 1009
        except ConnectionClosed as closed:  # while it was still sending
            assert closed.rcvd is None or closed.rcvd.code == 1009  # noqa: PT017
    assert memory(server, "VmHWM") - before < 40 * MIB  # the server's own limit is 16, of which it may hold copies
    with connect(server, "/shout") as socket:
        socket.send(b"abc")
        assert hear(socket)["blob"]["size"] == 3


# ---- JSON


@pytest.mark.parametrize(("depth", "named"), [(150, True), (500, True), (100_000, False)])
def test_data_however_deep_is_a_problem(server: Server, depth: int, named: bool) -> None:
    with connect(server, "/echo") as socket:
        socket.send('{"id": "deep", "data": ' + "[" * depth + "]" * depth + "}")
        heard = hear(socket)
        assert (heard["event"], heard["status"], heard.get("id")) == ("problem", 422, "deep" if named else None)
        say(socket, "good", {"n": 1})
        assert hear(socket)["event"] == "reply"


def test_of_members_of_one_name_the_last_counts(server: Server) -> None:
    with connect(server, "/echo") as socket:
        socket.send('{"id": "a", "data": {"n": 1}, "id": "b", "data": {"n": 2, "n": 3}, "other": [1]}')
        assert hear(socket) == {"id": "b", "event": "reply", "data": {"n": 3}}


# ---- ids


@pytest.mark.parametrize(
    "id", ["1", "null", "true", "[]", "{}", '""', f'"{"a" * 129}"', f'"{"😀" * 129}"', '"\\ud800"']
)
def test_what_is_no_id_is_a_problem_without_one(server: Server, id: str) -> None:
    with connect(server, "/echo") as socket:
        socket.send(f'{{"id": {id}, "data": {{"n": 1}}}}')
        heard = hear(socket)
        assert (heard["event"], heard["status"], "id" in heard) == ("problem", 422, False)


@pytest.mark.parametrize(
    "id",
    [" ", "\0", "\n", '"', "\\", "😀", "a" * 128, "😀" * 128, "null", "\u2028", "\ufeff", "\x7f", "</script>", "é"],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_other_text_is_an_id_and_comes_back_as_it_was(server: Server, id: str, ascii_only: bool) -> None:
    with connect(server, "/tell") as socket:
        socket.send(json.dumps({"id": id, "data": {"bits": 1}}, ensure_ascii=ascii_only))
        heard = [hear(socket)]
        while heard[-1]["event"] != "reply":
            heard.append(hear(socket))
        assert {said["id"] for said in heard} == {id}


def test_an_id_may_be_used_again_once_its_end_was_heard(server: Server) -> None:
    with connect(server, "/echo") as socket:
        for n in (1, -1, 2, 3):
            say(socket, "same", {"n": n})
            heard = hear(socket)
            assert (heard["id"], heard["event"]) == ("same", "problem" if n < 0 else "reply")


# ---- what the handshake says


def test_what_the_path_names_is_in_every_request_whatever_its_data_says(server: Server) -> None:
    with connect(server, "/rooms/blue%20one") as socket:
        say(socket, "a", {"number": 1})
        assert hear(socket)["data"] == {"room": "blue one", "number": 1}
        say(socket, "b", {"number": 2, "room": "red"})
        assert hear(socket)["data"] == {"room": "blue one", "number": 2}


def test_the_handshakes_time_is_that_of_every_request_and_a_frame_may_only_shorten_it(
    server: Server, gate: Gate
) -> None:
    with connect(server, "/wait", additional_headers={"x-request-timeout": "0.2"}) as socket:
        for id, rest in (("a", ""), ("b", ', "timeout": 60'), ("c", ', "timeout": 0.1')):
            socket.send(f'{{"id": "{id}", "data": {{"name": "timed"}}{rest}}}')
            heard = hear(socket)
            assert (heard["id"], heard["status"]) in ((id, 504), (id, 503))
            assert heard["problem"]["reason"] in ("deadline-exceeded", "expired-in-queue")
            gate.open("timed")


@pytest.mark.parametrize("seconds", ["0", "soon", "-1"])
def test_a_time_that_cannot_be_read_refuses_the_handshake(server: Server, seconds: str) -> None:
    with pytest.raises(InvalidStatus) as denied:
        connect(server, "/echo", additional_headers={"x-request-timeout": seconds})
    answered = denied.value.response
    assert (answered.status_code, json.loads(answered.body)) == (
        422,
        httpx.post(f"{server.url}/echo", json={"n": 1}, headers={"x-request-timeout": seconds}).json(),
    )


# ---- cancelling


def test_to_cancel_what_is_unknown_is_passed_over(server: Server) -> None:
    with connect(server, "/echo") as socket:
        for _ in range(5):  # and is not malformed
            socket.send('{"id": "nobody", "event": "cancel"}')
        say(socket, "a", {"n": 1})
        assert hear(socket)["id"] == "a"
        socket.send('{"id": "a", "event": "cancel"}')  # it has ended
        say(socket, "b", {"n": 1})
        assert hear(socket)["id"] == "b"


def test_to_cancel_twice_is_to_cancel_once(server: Server, gate: Gate) -> None:
    with connect(server, "/wait") as socket:
        say(socket, "a", {"name": "twice"})
        gate.wait("twice")
        socket.send('{"id": "a", "event": "cancel"}')
        socket.send('{"id": "a", "event": "cancel"}')
        assert hear(socket)["problem"]["reason"] == "cancelled"
        gate.open("twice")
        gate.wait_note("twice cancelled")
        say(socket, "b", {"name": "after"})
        gate.wait("after")
        gate.open("after")
        assert hear(socket)["id"] == "b"


def test_a_request_and_its_cancellation_in_one_segment_are_one_end(server: Server) -> None:
    asked = [text({"id": str(n), "data": {"bits": 3}}) + text({"id": str(n), "event": "cancel"}) for n in range(50)]
    with Line(server, "/tell") as line:
        for both in asked:
            line.send(both)
        line.send(text({"id": "last", "data": {"bits": 0}}))
        ends = []
        while len(ends) < 51:
            heard = line.hear()
            if heard["event"] in ("reply", "problem"):
                ends.append(heard)
    assert sorted(said["id"] for said in ends) == sorted([*map(str, range(50)), "last"])
    assert {said["problem"]["reason"] for said in ends if said["event"] == "problem"} <= {"cancelled", "endpoint-busy"}


def test_an_answer_larger_than_the_peer_takes_closes_the_socket_and_cancels_the_rest(
    server: Server, gate: Gate
) -> None:
    with connect(server, "/wait", max_size=500) as socket:
        say(socket, "large", {"name": "oversized"})
        say(socket, "other", {"name": "bystander"})
        gate.wait("oversized")
        gate.wait("bystander")
        gate.open("oversized", "x" * 1000)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
        assert closed.value.sent is not None
        assert closed.value.sent.code == 1009
        wait_waiters(server, "wait", 0)
    gate.open("bystander")
    gate.wait_note("bystander cancelled")


# ---- many


@pytest.mark.parametrize("drops", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_flood_of_tiny_chunks_to_one_who_keeps_up_is_whole_and_holds_no_memory(server: Server, drops: int) -> None:
    with Line(server, "/drizzle") as line:
        line.send(text({"id": "d", "data": {"drops": 1000}}))
        while line.hear()["event"] != "reply":
            pass
        before = memory(server, "VmHWM")
        line.send(text({"id": "d", "data": {"drops": drops}}))
        numbers = (line.hear()["data"]["number"] for _ in range(drops))
        assert all(after == number + 1 for number, after in pairwise(numbers))
        assert line.hear() == {"id": "d", "event": "reply", "data": {"bits": drops}}
        assert memory(server, "VmHWM") - before < 16 * MIB


def test_sixteen_requests_at_once_and_the_seventeenth_is_refused(server: Server, gate: Gate) -> None:
    with connect(server, "/keep") as socket, connect(server, "/keep") as other:
        for number in range(17):
            say(socket, str(number), {"name": "sixteen"})
        refused = hear(socket)
        assert (refused["id"], refused["status"], refused["problem"]["reason"]) == ("16", 429, "endpoint-busy")
        assert refused["retry_after"] >= 1
        assert waiters(server, "keep") == 16
        say(other, "elsewhere", {"name": "sixteen"})  # the limit is one socket's
        wait_waiters(server, "keep", 17)
        let_on = 0
        while let_on < 17:
            gate.wait("sixteen")
            let_on += gate.open("sixteen")
        assert {hear(socket)["id"] for _ in range(16)} == {str(number) for number in range(16)}
        assert hear(other)["id"] == "elsewhere"
        say(socket, "again", {"name": "room again"})
        gate.wait("room again")
        gate.open("room again")
        assert hear(socket)["id"] == "again"


def test_a_socket_opened_while_a_drain_is_delayed_is_served(mode: Mode) -> None:
    with serving(APP, env=mode.env(2, drain_delay=60, drain_timeout=60)) as server:
        server.signal(signal.SIGTERM)
        wait_unready(server)
        with connect(server, "/echo") as socket:
            say(socket, "a", {"n": 1})
            assert hear(socket) == {"id": "a", "event": "reply", "data": {"n": 1}}


# ---- any frame at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ALMOST = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=3) | st.sampled_from(["a", "b"]) | JSON,
        "event": st.sampled_from(["cancel", "begin"]) | JSON,
        "data": st.fixed_dictionaries({"n": st.integers(-2, 2) | JSON}) | JSON,
        "timeout": st.floats(-1, 10) | JSON,
        "other": JSON,
    },
).map(json.dumps)
CUT = st.tuples(ALMOST, st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]])
FRAMES = st.lists(ALMOST | ALMOST | CUT | st.text() | st.binary(), max_size=8)


def heard_until(socket: ClientConnection, fence: str) -> Iterator[Any]:
    """All that is said until the fence is answered, or the socket is closed for too much nonsense."""
    socket.send(json.dumps({"id": fence}))  # without data, which is a problem of its id wherever it is asked
    while True:
        try:
            said = socket.recv(10)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "closed without a word"  # noqa: PT017
            assert (closed.rcvd.code, closed.rcvd.reason) == (1008, "malformed frames")  # noqa: PT017
            return
        if isinstance(said, bytes):
            continue
        read = json.loads(said)
        if read.get("id") == fence:
            return
        yield read


@pytest.mark.parametrize("path", ["/echo", "/shout"])
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=FRAMES)
def test_any_frames_at_all_are_answers_or_problems_and_the_server_lives(
    server: Server, path: str, frames: list[str | bytes]
) -> None:
    with connect(server, path, compression=None) as socket:
        try:
            for said in frames:
                socket.send(said)
            answers = list(heard_until(socket, uuid4().hex))
        except ConnectionClosed:
            answers = []  # it was closed while this was still sending
        for said in answers:
            assert said["event"] in ("reply", "problem")
            if said["event"] == "problem":
                assert said["status"] in (409, 422, 499, 503, 504), said
    assert server.process.poll() is None


def test_after_all_that_the_server_answers_as_ever(server: Server) -> None:
    assert httpx.get(f"{server.url}/offloop/livez").status_code == 200
    assert httpx.post(f"{server.url}/echo", json={"n": 1}).json() == {"n": 1}
    for name in ("echo", "shout"):
        wait_waiters(server, name, 0)
