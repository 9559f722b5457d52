"""A request as a Celery message: what Celery itself makes of it, what is shown of it, and what is believed."""

import base64
import json
from typing import Any

import msgspec
import pytest
from celery import Celery
from celery.app.task import Context
from celery.worker.request import Request
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.message import Message

from offloop.transports.celery.letters import (
    BESIDE,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    Letter,
    Letters,
    id_of,
    name_of,
    packed,
    queue_of,
    read_id,
    unpacked,
)
from offloop.transports.parcels import PART, NotOurs
from tests.support.cluster import wait_until

SECRET = b"what-only-callers-know"
PARCEL = ("e", b"\x00\xff" + SECRET, b"s", bytes(range(32)))


def letters(grace: float = 5.0) -> Letters:
    return Letters("ns", {"read": None, "compute": "gpu"}, grace)


def letter(endpoint: str = "read", left: float = 2.0, attempt: int = 1) -> Letter:
    return letters().write(endpoint, "abc-1-def", attempt, PARCEL, left, 100.0 + left)


def taken(written: Letter) -> Any:
    """Celery's own request, made of the message as a worker makes it."""
    app = Celery("any", set_as_current=False, broker="memory://", result_backend="disabled")

    @app.task(name=name_of("ns"), bind=True, shared=False)  # else every app of this process has it
    def run(self: Any, endpoint: str) -> None: ...

    with Connection("memory://") as connection, connection.channel() as channel:
        message = Message(
            body=written.body, channel=channel, content_type=CONTENT_TYPE, content_encoding=CONTENT_ENCODING,
            headers=written.headers, properties=written.properties,
            delivery_info={"routing_key": written.queue, "exchange": "", "redelivered": False}, delivery_tag="1",
        )  # fmt: skip
        return Request(message, app=app, task=run, decoded=False)


def test_names_are_made_of_the_namespace() -> None:
    assert name_of("ns") == "ns.run"
    assert (queue_of("ns", None), queue_of("ns", "gpu")) == ("ns", "ns.gpu")
    assert (letters().queue("read"), letters().queue("compute")) == ("ns", "ns.gpu")
    assert (letter().queue, letter("compute").queue) == ("ns", "ns.gpu")


@given(rid=st.text(min_size=1), attempt=st.integers(0, 10**6))
def test_an_id_says_whose_it_is_and_which_attempt(rid: str, attempt: int) -> None:
    assert read_id(id_of(rid, attempt)) == (rid, attempt)


@pytest.mark.parametrize("text", ["", ".", ".1", "abc", "abc.", "abc.x", "abc.-1", "abc.\uff11", "abc.1 "])
def test_what_is_no_id_of_ours_is_not_read(text: str) -> None:
    with pytest.raises(NotOurs):
        read_id(text)


@given(st.lists(st.binary(max_size=300)))
def test_a_parcel_is_text_and_back(fields: list[bytes]) -> None:
    text = packed(fields)
    assert text.isascii()
    assert unpacked(text) == fields


def test_names_of_fields_are_bytes_afterwards() -> None:
    assert unpacked(packed(PARCEL)) == [b"e", *PARCEL[1:]]


@pytest.mark.parametrize(
    "what",
    [None, 5, "", "%%", "a", base64.b64encode(b"\xc1").decode(), base64.b64encode(b"\x91\x01").decode(), "ä", [b"e"],
     base64.b64encode(msgspec.msgpack.encode({"e": b""})).decode()],
)  # fmt: skip
def test_what_is_no_parcel_is_not_read(what: object) -> None:
    with pytest.raises(NotOurs):
        unpacked(what)


def test_celery_reads_it_as_its_own() -> None:
    written = letter(left=2.0, attempt=3)
    request = taken(written)
    assert (request.id, request.name, request.task_id) == ("abc-1-def.3", "ns.run", "abc-1-def.3")
    assert list(request.args) == ["read"]
    assert request.kwargs == {}
    assert request.time_limits[0] == 7.0
    assert (request.correlation_id, request.reply_to or "") == ("abc-1-def.3", "")
    args, kwargs, embed = request._payload
    assert (list(args), kwargs) == (["read"], {})
    assert unpacked(embed[BESIDE]) == [b"e", *PARCEL[1:]]
    assert getattr(Context(request.request_dict | embed), BESIDE) == embed[BESIDE]


def test_nobody_is_told_to_store_anything_and_nothing_expires_by_itself() -> None:
    """Celery's own `expires` is by the clock of the day, and drops in silence."""
    headers, properties = letter().headers, letter().properties
    assert headers["expires"] is headers["eta"] is None
    assert not headers["retries"]
    assert headers["root_id"] == headers["id"]
    assert "expiration" not in properties


def test_the_time_limit_is_what_is_left_and_the_grace_and_never_less() -> None:
    for written, limit in (
        (letter(left=2.5), 7.5),
        (letter(left=-3.0), 5.0),
        (letters(0.25).write("read", "r", 1, PARCEL, 1.0, 101.0), 1.25),
    ):
        hard, soft = written.headers["timelimit"]
        assert hard == limit
        assert soft is None or soft >= hard  # nothing is raised in a node before


def test_it_says_until_when_whoever_runs_it_may() -> None:
    assert letter(left=2.5).headers["offloop_until"] == 107.5


@pytest.mark.parametrize("size", [0, 1, 2, PART - 5, PART, PART + 1, 3 * PART + 2])
def test_written_in_parts_it_is_the_same(size: int) -> None:
    parcel = (b"e", bytes(range(256)) * (size // 256) + bytes(size % 256))
    writing, pauses = letters().writing("read", "abc-1-def", 2, parcel, 1.0, 101.0), 0
    while True:
        try:
            next(writing)
        except StopIteration as ended:
            written = ended.value
            break
        pauses += 1
    assert written == letters().write("read", "abc-1-def", 2, parcel, 1.0, 101.0)
    assert json.loads(written.body)[2][BESIDE] == packed(parcel)
    assert pauses >= size // PART


def test_what_watchers_are_shown_has_nothing_of_the_payload() -> None:
    written = letter()
    request = taken(written)
    forms = [SECRET.decode(), written.text[50:80].decode(), json.loads(written.body)[2][BESIDE]]
    shown = [
        repr(request), repr(request.info()), repr(request.info(safe=True)), repr(written.headers),
        repr(written.properties), request.humaninfo(), request.argsrepr, request.kwargsrepr,
    ]  # fmt: skip
    for text in shown:
        assert not any(form in text for form in forms)
    assert "read" in request.argsrepr


def test_letters_share_nothing_that_one_could_change() -> None:
    many = letters()
    one, other = (many.write("read", f"r{number}", 1, PARCEL, 1.0, 101.0) for number in range(2))
    one.headers["id"] = one.properties["correlation_id"] = "changed"
    assert (other.headers["id"], other.properties["correlation_id"]) == ("r1.1", "r1.1")
    third = many.write("read", "r2", 1, PARCEL, 1.0, 101.0)
    assert third.headers["id"] == "r2.1"


def test_writing_them_leaves_no_app_behind_as_the_current_one() -> None:
    from celery import current_app

    before = current_app._get_current_object()
    letters()
    assert current_app._get_current_object() is before


def test_a_hundred_letters_are_quick() -> None:
    """The web loop writes them: what Celery does for a message is done once for each endpoint."""
    many = letters()
    took: list[float] = []

    def quick() -> bool:
        from time import process_time

        since = process_time()
        for number in range(100):
            many.write("read", f"r{number}", 1, PARCEL, 1.0, 101.0)
        took.append(process_time() - since)
        return took[-1] < 0.02

    wait_until(quick, f"less than 0.2 ms each: {took}")
