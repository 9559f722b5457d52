"""The wire: whatever is sent arrives, however it is cut up; and nothing that is no frame is taken for one."""

import math
import socket
from collections.abc import Iterator
from contextlib import suppress
from struct import pack
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offloop.messages import Chunk, Envelope, Freed, Outcome, Progressed, Withdrawn
from offloop.transports.local import frames
from offloop.transports.local.frames import (
    HEAD_LIMIT,
    INLINE,
    LENGTHS,
    ROOM,
    Answers,
    Cancel,
    Controls,
    Failed,
    FrameError,
    Grant,
    Orders,
    Progress,
    Reader,
    Ready,
    Stop,
    Withdraw,
    Work,
)
from tests.unit.transports.local.rig import envelope, setup

BODY_LIMIT = 2**22
STEP = 2**15
"""Bytes that a socket's buffer takes in one go, wherever this runs."""

Line = tuple[socket.socket, socket.socket]


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def reader(kind: Any = Answers, max_body: int = BODY_LIMIT) -> Reader[Any]:
    return Reader(kind, max_body)


def passed(line: Line, to: Reader[Any], data: bytes, step: int = STEP) -> list[Any]:
    """What comes of data that is sent `step` bytes at a time, and read at once up to a fault."""
    ours, theirs = line
    theirs.setblocking(False)
    found: list[Any] = []
    for start in range(0, len(data), step):
        ours.sendall(data[start : start + step])
        with suppress(BlockingIOError):
            while to.fault is None:
                came = to.read(theirs)
                assert came is not None
                found += came
        if to.fault is not None:
            break
    return found


def outcome(payload: bytes, rid: str = "r1") -> Outcome:
    return Outcome(rid, payload=payload, media_type="text/plain", filename="Maß.txt", begun_at=1.25, ended_at=math.pi)


ANSWERS: list[Any] = [
    outcome(b"answer"), Chunk("r1", 2, 7, bytes(range(256)), "image/png", "a.png"), Freed("r1", 2, "worker-0:1"),
    Withdrawn("r1", False), Withdrawn("r1", True), Progress("building services"), Ready(), Failed("line", "trace"),
    Progressed("r1", 2, 0.5), Progressed("r1", 1, 3.0, 7.0, "Seite 3 von 7 für Ä"),
]  # fmt: skip
ORDERS: list[Any] = [setup("worker-0:1"), Work(3, 9, envelope(fields=(("query", "q", "ä b"),))), Stop()]
CONTROLS: list[Any] = [Withdraw("r1", 9), Cancel("r1"), Grant("r1", 2**62)]


@pytest.mark.parametrize(("kind", "messages"), [(Answers, ANSWERS), (Orders, ORDERS), (Controls, CONTROLS)])
def test_all_that_may_be_said_arrives_as_it_was_sent(line: Line, kind: Any, messages: list[Any]) -> None:
    data = b"".join(piece for message in messages for piece in frames.plain(message))
    assert passed(line, reader(kind), data) == messages


def test_many_frames_come_in_one_read(line: Line) -> None:
    said = [outcome(b"", f"r{number}") for number in range(200)]
    ours, theirs = line
    ours.sendall(b"".join(piece for one in said for piece in frames.report(one)))
    assert reader().read(theirs) == said


def test_a_frame_may_be_split_at_every_byte(line: Line) -> None:
    said = [outcome(b"first"), Ready(), outcome(b"")]
    data = b"".join(piece for one in said for piece in frames.plain(one))
    for cut in range(1, len(data)):
        to = reader()
        found = passed(line, to, data[:cut], len(data)) + passed(line, to, data[cut:], len(data))
        assert found == said, cut


def test_frames_come_byte_by_byte(line: Line) -> None:
    said = [outcome(b"first"), Ready(), outcome(b"")]
    data = b"".join(piece for one in said for piece in frames.plain(one))
    assert passed(line, reader(), data, step=1) == said


def test_the_end_of_the_stream_is_none_also_amid_a_frame(line: Line) -> None:
    ours, theirs = line
    to = reader()
    (data,) = frames.plain(Ready())
    assert passed(line, to, data + data[:-1]) == [Ready()]
    ours.close()
    assert to.read(theirs) is None
    assert to.fault is None


def test_nothing_to_read_is_an_error_of_the_socket_and_none_of_the_reader(line: Line) -> None:
    to = reader()
    line[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        to.read(line[1])
    assert passed(line, to, frames.plain(Ready())[0]) == [Ready()]


# ---- bodies


@pytest.mark.parametrize("size", [INLINE - 1, INLINE, INLINE + 1, ROOM - 100, ROOM, ROOM + 1, 3 * ROOM])
def test_a_payload_arrives_on_both_sides_of_what_travels_in_its_head(line: Line, size: int) -> None:
    payload = bytes(range(251)) * (size // 251 + 1)
    payload = payload[:size]
    sent = envelope(payload=payload)
    said: list[Any] = [outcome(payload), Chunk("r1", 1, 1, payload)]
    assert passed(line, reader(Orders), b"".join(frames.work(sent, 3, 9))) == [Work(3, 9, sent)]
    for one in said:
        assert passed(line, reader(), b"".join(frames.report(one))) == [one]


def test_a_large_payload_is_sent_as_it_is(line: Line) -> None:
    payload = b"x" * (INLINE + 1)
    assert frames.work(envelope(payload=payload), 0, 1)[1] is payload
    assert frames.report(outcome(payload))[1] is payload
    assert len(frames.work(envelope(payload=payload[1:]), 0, 1)) == 1


def test_small_frames_follow_large_ones_and_the_buffer_does_not_stay_large(line: Line) -> None:
    to = reader()
    large, small = outcome(b"x" * (BODY_LIMIT - 1)), outcome(b"small")
    sent = [large, small, large, small, small]
    data = b"".join(piece for one in sent for piece in frames.report(one))
    assert passed(line, to, data) == sent
    assert len(to._buffer) < BODY_LIMIT


# ---- what is no frame


def heads(head: int, body: int) -> bytes:
    return pack("<II", head, body)


FAULTS: dict[str, bytes] = {
    "a head that is too long": heads(HEAD_LIMIT + 1, 0),
    "a body that is too long": heads(10, BODY_LIMIT + 1),
    "lengths of a stray print": b"Traceback (most recent call last)",
    "a head that is no MessagePack": heads(3, 0) + b"\xc1\xc1\xc1",
    "an empty head": heads(0, 0),
    "a head with something behind it": heads(9, 0) + msgspec.msgpack.encode(["ready"]) + b"  ",
    "a message that nobody knows": heads(8, 0) + msgspec.msgpack.encode(["pickle"]),
    "a message for the other side": b"".join(frames.plain(Stop())),
    "an array of arrays without end": heads(500_007, 0) + b"\x92" + msgspec.msgpack.encode("ready") + b"\x91" * 500_000,
    "text that is no UTF-8": heads(12, 0) + b"\x92" + msgspec.msgpack.encode("progress") + b"\xa1\xff",
    "a body where none may be": heads(7, 2) + msgspec.msgpack.encode(["ready"]) + b"{}",
}


@pytest.mark.parametrize("data", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_frame_is_a_fault_and_what_came_before_it_is_given_back(line: Line, data: bytes) -> None:
    to = reader()
    before = outcome(b"before")
    assert passed(line, to, b"".join(frames.report(before)) + data) == [before]
    assert isinstance(to.fault, FrameError)


def test_lengths_are_refused_before_what_they_announce_has_come(line: Line) -> None:
    for lengths in (heads(HEAD_LIMIT + 1, 0), heads(0, BODY_LIMIT + 1)):
        to = reader()
        passed(line, to, lengths)
        assert to.fault is not None
        assert len(to._buffer) == ROOM


def test_the_largest_head_and_body_are_taken(line: Line) -> None:
    to = reader()
    said = Failed("", "x" * (HEAD_LIMIT - len(msgspec.msgpack.encode(Failed("", ""))) - 4))
    (data,) = frames.plain(said)
    assert LENGTHS.unpack_from(data)[0] == HEAD_LIMIT
    assert passed(line, to, data) == [said]
    assert passed(line, to, b"".join(frames.report(outcome(b"x" * BODY_LIMIT)))) == [outcome(b"x" * BODY_LIMIT)]


def test_no_control_has_a_body(line: Line) -> None:
    to = reader(Controls, 0)
    passed(line, to, heads(5, 1))
    assert to.fault is not None


@pytest.mark.parametrize("name", ["x" * (HEAD_LIMIT + 1), "r\udce9sum\udce9.pdf"], ids=["long", "no UTF-8"])
@pytest.mark.parametrize("size", [10, INLINE + 1])
def test_labels_that_no_head_can_hold_are_refused_by_the_sender(size: int, name: str) -> None:
    with pytest.raises(ValueError, match=r"head of \d+ bytes|surrogates"):
        frames.work(envelope(payload=b"x" * size, filename=name), 0, 1)
    with pytest.raises(ValueError, match=r"head of \d+ bytes|surrogates"):
        frames.report(Chunk("r1", 1, 1, b"x" * size, filename=name))


# ---- anything

texts = st.text(max_size=20)
labels = st.none() | texts
payloads = st.binary(max_size=50) | st.integers(INLINE - 2, INLINE + 2).map(lambda size: b"\x00\xff" * (size // 2))
times = st.floats(allow_nan=False)
counts = st.integers(1, 2**31)
triples = st.lists(st.tuples(texts, texts, texts), max_size=3).map(tuple)
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
envelopes = st.builds(
    Envelope, rid=texts, endpoint=texts, payload=payloads, deadline=times, media_type=labels, filename=labels,
    form=st.sampled_from(["json", "raw", "multipart", "packed", "none"]), fields=triples, request_id=texts,
    reply_to=texts, trace=pairs, attempt=counts, stream=st.booleans(),
)  # fmt: skip
outcomes = st.builds(
    Outcome, rid=texts, reason=texts, payload=payloads, status=st.integers(0, 599), media_type=labels, filename=labels,
    attempt=counts, started=st.none() | st.booleans(), begun_at=times, ended_at=times, worker=texts,
    last=st.booleans(), debug=labels,
)  # fmt: skip
chunks = st.builds(
    Chunk, rid=texts, attempt=counts, number=counts, payload=payloads, media_type=labels, filename=labels
)


@settings(max_examples=60, deadline=None)
@given(st.lists(envelopes, min_size=1, max_size=4), st.integers(1, 5000))
def test_any_envelopes_go_through(sent: list[Envelope], step: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        data = b"".join(piece for number, one in enumerate(sent) for piece in frames.work(one, number, number + 1))
        found = passed((ours, theirs), reader(Orders), data, step)
    assert found == [Work(number, number + 1, one) for number, one in enumerate(sent)]


@settings(max_examples=60, deadline=None)
@given(st.lists(outcomes | chunks, min_size=1, max_size=4), st.integers(1, 5000))
def test_any_reports_go_through(sent: list[Outcome | Chunk], step: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        data = b"".join(piece for one in sent for piece in frames.report(one))
        assert passed((ours, theirs), reader(), data, step) == sent


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_a_fault_or_the_beginning_of_something_and_never_an_error(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        to = reader()
        passed((ours, theirs), to, garbage)
        framed = LENGTHS.pack(len(garbage), 0) + garbage
        if to.fault is None:
            to = reader()
            passed((ours, theirs), to, framed)
