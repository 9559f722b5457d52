"""What is believed of what lies in a stream, and what is not; keys that change; and what is shown of secrets."""

import asyncio
import hmac
import logging
from itertools import pairwise
from time import monotonic

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offloop.errors import SettingsError
from offloop.messages import Envelope, Outcome
from offloop.transports.local.frames import Cluster
from offloop.transports.parcels import (
    BODY,
    OVERHEAD,
    SAY_EVERY,
    SIGNATURE,
    Cancel,
    NotOurs,
    Parcel,
    Refusals,
    orders,
    parcels,
    returns,
)
from offloop.transports.redis.wire import address_of
from offloop.transports.redis.worker import RedisSource
from tests.support.broker import broker
from tests.unit.transports.redis.rig import Cluster as Rig

LARGEST = 1000
STREAM, INBOX = "a:requests:default", "a:inbox:1"
OLD, NEW = "old" * 10, "new" * 10
PARCEL = Parcel(
    1e9, "print", True, Envelope(rid="rid-1", endpoint="read", payload=b'{"n": 1}', deadline=0.0, reply_to="1")
)
OUTCOME = Outcome("rid-1", payload=b"2")

Fields = tuple[str | bytes, ...]


def written(what: Parcel = PARCEL, *, keys: tuple[str, ...] = (OLD,), stream: str = STREAM) -> Fields:
    return parcels(keys, LARGEST).write(stream, what)


def reason(fields: Fields, *, keys: tuple[str, ...] = (OLD,), stream: str = STREAM) -> str:
    with pytest.raises(NotOurs) as refused:
        parcels(keys, LARGEST).read(stream, fields)
    return str(refused.value)


def test_a_signature_is_over_the_direction_the_stream_and_all_bytes():
    _, body, _, signature = written()
    assert isinstance(body, bytes)
    assert signature == hmac.digest(OLD.encode(), b"request\0" + STREAM.encode() + b"\0" + body, "sha256")


def test_what_was_signed_is_read_where_it_was_written_for():
    assert parcels((OLD,), LARGEST).read(STREAM, written()) == PARCEL


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires", 2e9),
        ("fingerprint", "another"),
        ("again", False),
        ("endpoint", "write"),
        ("rid", "rid-2"),
        ("reply_to", "2"),
        ("attempt", 2),
        ("payload", b'{"n": 2}'),
        ("stream", True),
    ],
)
def test_whatever_is_altered_of_a_request_is_refused(field, value):
    if field in Parcel.__struct_fields__:
        altered = msgspec.structs.replace(PARCEL, **{field: value})
    else:
        envelope = msgspec.structs.replace(PARCEL.envelope, **{field: value})
        altered = msgspec.structs.replace(PARCEL, envelope=envelope)
    _, body, *_ = written(altered)
    assert "does not fit" in reason((BODY, body, SIGNATURE, written()[3]))


@given(st.integers(0), st.integers(1, 255))
def test_whatever_byte_of_a_request_is_altered_it_is_refused(place, change):
    body = bytearray(written()[1])
    body[place % len(body)] ^= change
    assert "does not fit" in reason((BODY, bytes(body), SIGNATURE, written()[3]))


def test_what_is_not_signed_is_refused_where_there_is_a_key():
    assert reason(written(keys=())) == "it is not signed"


def test_what_was_signed_is_read_where_there_is_no_key():
    assert parcels((), LARGEST).read(STREAM, written()) == PARCEL


@pytest.mark.parametrize("signature", [b"", b"\0" * 32, b"\0" * 33, "é".encode()])
def test_a_signature_that_is_none_is_refused(signature):
    assert "does not fit" in reason((BODY, written()[1], SIGNATURE, signature))


@pytest.mark.parametrize("stream", ["a:requests:gpu", "b:requests:default", "a:inbox:1"])
def test_what_is_carried_to_another_stream_is_refused(stream):
    assert "does not fit" in reason(written(), stream=stream)


def test_one_direction_does_not_sign_for_another():
    cancel = orders((OLD,)).write(INBOX, Cancel("host/worker-0", "rid-1"))
    with pytest.raises(NotOurs, match="does not fit"):
        returns((OLD,), LARGEST).read(INBOX, cancel)


def test_what_is_too_large_is_refused_before_its_signature_is_looked_at_or_it_is_read():
    fields = (BODY, b"\0" * (LARGEST + OVERHEAD + 1), SIGNATURE, b"")
    assert reason(fields) == f"it is larger than the {LARGEST + OVERHEAD} bytes that are taken"
    with pytest.raises(NotOurs, match="it is larger than"):
        returns((), LARGEST).read(INBOX, fields)


@pytest.mark.parametrize("fields", [(), (BODY,), (b"x", b"y"), (BODY, b"\xc1"), (BODY, msgspec.msgpack.encode([1]))])
def test_what_cannot_be_read_is_refused(fields):
    assert reason(fields, keys=()) == "it cannot be read"


STEPS = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]


@pytest.mark.parametrize(("before", "after"), list(pairwise(STEPS)))
def test_keys_change_in_three_rounds_in_each_of_which_both_sides_believe_each_other(before, after):
    for web in (before, after):
        for worker in (before, after):
            assert parcels(worker, LARGEST).read(STREAM, written(keys=web)) == PARCEL
            assert returns(web, LARGEST).read(INBOX, returns(worker, LARGEST).write(INBOX, OUTCOME)) == OUTCOME


def test_in_fewer_rounds_they_would_not():
    assert "does not fit" in reason(written(keys=(NEW, OLD)), keys=(OLD,))


# ---- what is counted, and said of it


def test_what_is_refused_is_counted_and_told_once_a_second_for_each_reason(caplog):
    now = 0.0
    refusals = Refusals("a request", lambda: now)
    with caplog.at_level(logging.DEBUG, "offloop"):
        for _ in range(3):
            refusals.add(NotOurs("it is not signed"))
        assert caplog.messages == ["a request is dropped: it is not signed (1 so far)"]
        refusals.add(NotOurs("it cannot be read"))
        assert caplog.messages[1:] == ["a request is dropped: it cannot be read (4 so far)"]
        now += SAY_EVERY
        refusals.add(NotOurs("it is not signed"))
    assert caplog.messages[2:] == ["a request is dropped: it is not signed (5 so far)"]
    assert refusals.count == 5


async def test_a_request_is_not_taken_for_a_replay_where_the_answer_was_lost(monkeypatch):
    lost = []
    exchange = RedisSource._exchange

    def loses(source, commands, waits=0.0):
        replies = exchange(source, commands, waits)
        if commands[0][0] == "SET" and not lost:
            lost.append(replies)
            source._drop()
            return None
        return replies

    monkeypatch.setattr(RedisSource, "_exchange", loses)
    with broker() as redis:
        cluster = Rig(redis.url, keys=(OLD,))
        await cluster.start()
        try:
            worker = cluster.worker(0)
            cluster.web.put(msgspec.structs.replace(PARCEL.envelope, deadline=monotonic() + 30), None)
            delivery = await asyncio.to_thread(worker.get, 20)
            assert delivery is not None
            assert lost
            assert delivery.begin()
        finally:
            await cluster.stop()


# ---- secrets

SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@host:port/0",
        f"redis://user:12/{SECRET}@host/0",
        f"redis://user:12?{SECRET}@host/0",
        f"redis://user:12#{SECRET}@host/0",
        f"redis://:{SECRET}/12@host/0",
        f"redis+unix://user:12/{SECRET}@/run/redis.sock",
        f"rediss://user:{SECRET}@host/0?ssl_ca_certs=/nowhere",
        f"redis://user:{SECRET}@[host/0",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_credentials(url):
    with pytest.raises(SettingsError, match="^OFFLOOP_BROKER_URL cannot be used: ") as refused:
        address_of(url)
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_quoted_password_is_taken_as_it_was_meant():
    address = address_of("redis://user:a%2Fb%40c%3Fd%23e@host:1/2")
    assert (address.username, address.password, str(address)) == ("user", "a/b@c?d#e", "host:1/2")


def test_an_address_shows_no_credentials():
    address = address_of(f"rediss://user:{SECRET}@host:1/2")
    assert SECRET not in f"{address} {address!r}"
    assert "user" not in f"{address} {address!r}"


def test_what_a_worker_is_told_shows_no_credentials():
    told = Cluster(f"redis://:{SECRET}@host", "a", "default", "host/worker-0", (SECRET,), {}, 1, 0, None)
    assert repr(told) == "Cluster('host/worker-0')"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("redis://localhost", True),
        ("redis://127.0.0.1:1/0", True),
        ("redis://[::1]:1/0", True),
        ("redis+unix:///run/redis.sock?db=1", True),
        ("redis://10.0.0.1", False),
        ("rediss://redis.example.org", False),
    ],
)
def test_what_nobody_else_can_hear_is_local(url, local):
    assert address_of(url).local is local
