"""Connections to a RabbitMQ: what is said is confirmed, refused or returned, what breaks is told, nothing hangs."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any
from uuid import uuid4

import amqp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, frame, header

from offloop.clock import monotonic
from offloop.errors import SettingsError
from offloop.transports.celery import amqp_line
from offloop.transports.celery.amqp_line import UNHEARD, Line
from offloop.transports.celery.amqp_wire import (
    BULK,
    BULKY,
    LOOK,
    MAIN,
    Address,
    BrokerError,
    Message,
    Method,
    Wire,
    address_of,
    open_wire,
    properties,
    written,
)
from tests.support.daemon import free_port
from tests.support.rabbit import anywhere

DEADLINE = 10.0
MIB = 2**20


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with anywhere() as url:
        yield url


@pytest.fixture
def admin(url: str) -> Iterator[Any]:
    """A channel of whoever else uses the broker."""
    address = address_of(url)
    with amqp.Connection(f"{address.host}:{address.port}") as connection:
        yield connection.channel()


@pytest.fixture
def queue(admin: Any) -> Iterator[str]:
    name = f"test-{uuid4().hex}"
    admin.queue_declare(name, auto_delete=False)
    yield name
    admin.queue_delete(name)


@asynccontextmanager
async def opened(url: str, largest: int = 64 * MIB) -> AsyncIterator[Wire]:
    wire = await open_wire(address_of(url), largest)
    yield wire
    wire.drop()
    for _ in range(5):  # a connection that was dropped is closed a turn later
        await asyncio.sleep(0)


@contextmanager
def answering(*said: bytes) -> Iterator[Address]:
    """Something that listens, and says this and no more to whoever connects, before it closes the connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            with closing(listener.accept()[0]) as line:
                for words in said:
                    line.recv(2**16)
                    line.sendall(words)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield address_of(f"amqp://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(DEADLINE)


async def all_confirmed(wire: Wire, *messages: Message) -> list[str]:
    """What each was answered, in the order of the answers."""
    answers: list[str] = []
    done = asyncio.Event()

    def confirmed(fault: str) -> None:
        answers.append(fault)
        if len(answers) == len(messages):
            done.set()

    wire.publish(messages, [confirmed] * len(messages))
    await asyncio.wait_for(done.wait(), DEADLINE)
    return answers


# ---- addresses


def test_a_url_says_where_and_who_and_is_shown_without_that() -> None:
    address = address_of("amqp://me:se%2Fcret@host:7000/place")
    assert (address.host, address.port, address.vhost) == ("host", 7000, "place")
    assert (address.username, address.password) == ("me", "se/cret")
    assert str(address) == "host:7000/place"
    assert "cret" not in repr(address)


@pytest.mark.parametrize(
    "url", ["amqp://", "amqp://localhost", "pyamqp://localhost:5672/", "amqp://guest:guest@localhost//"]
)
def test_what_a_url_does_not_say_is_as_with_celery(url: str) -> None:
    address = address_of(url)
    assert (address.host, address.port, address.vhost) == ("localhost", 5672, "/")
    assert (address.username, address.password, address.tls) == ("guest", "guest", None)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("amqp://localhost", True), ("amqp://127.8.0.1", True), ("amqp://[::1]:7000", True), ("amqp://10.0.0.1", False),
        ("amqps://rabbit.example", False),
    ],
)  # fmt: skip
def test_only_what_stays_on_this_host_is_local(url: str, local: bool) -> None:
    assert address_of(url).local is local


@pytest.mark.parametrize(
    "url", ["amqp://me:secret@host:port//", "amqp://me:sec/ret@host//", "amqps://h?ssl_ca_certs=/no"]
)
def test_a_url_that_is_none_is_refused_without_its_credentials(url: str) -> None:
    with pytest.raises(SettingsError, match="OFFLOOP_BROKER_URL cannot be used") as refused:
        address_of(url)
    assert "ret" not in str(refused.value)


def test_tls_checks_certificates_unless_it_is_told_otherwise() -> None:
    checked, loose = address_of("amqps://host").tls, address_of("amqps://host?ssl_cert_reqs=none").tls
    assert checked is not None
    assert loose is not None
    assert checked.check_hostname
    assert not loose.check_hostname
    assert address_of("amqps://host").port == 5671


# ---- opening


async def test_where_nobody_listens_there_is_no_connection() -> None:
    with pytest.raises(BrokerError, match="127.0.0.1"):
        await open_wire(address_of(f"amqp://127.0.0.1:{free_port()}"), MIB)
    with pytest.raises(BrokerError, match="127.0.0.1"):
        Line(address_of(f"amqp://127.0.0.1:{free_port()}"))


async def test_whoever_is_not_let_in_is_told_so_and_nothing_tells_the_password(url: str) -> None:
    address = address_of(url)
    stranger = f"amqp://nobody:hidden@{address.host}:{address.port}//"
    with pytest.raises(BrokerError, match="ACCESS_REFUSED") as refused:
        await open_wire(address_of(stranger), MIB)
    with pytest.raises(BrokerError, match="ACCESS_REFUSED") as refused_too:
        await asyncio.to_thread(Line, address_of(stranger))
    assert "hidden" not in str(refused.value) + str(refused_too.value)


async def test_a_virtual_host_that_is_none_is_named(url: str) -> None:
    address = address_of(url)
    with pytest.raises(BrokerError, match="vhost nowhere not found"):
        await open_wire(address_of(f"amqp://{address.host}:{address.port}/nowhere"), MIB)


async def test_one_that_listens_and_says_nothing_is_given_up() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        began = monotonic()
        with pytest.raises(BrokerError, match="TimeoutError"):
            await open_wire(address_of(f"amqp://127.0.0.1:{listener.getsockname()[1]}"), MIB)
        assert monotonic() - began < DEADLINE


@pytest.mark.parametrize(
    "said",
    [
        b"AMQP\0\0\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\1\0\0\xff\xff\xff\xff1234",
        b"\1\0\0\0\0\0\4\0\0\0\0x", b"\1\0\0\0\0\0\4\0\0\0\0\xce", b"\3\0\1\0\0\0\1x\xce",
        b"\1\0\7" + b"\0\0\0\4\0\x0a\0\x0a\xce",
    ],
)  # fmt: skip
async def test_what_is_no_rabbitmq_is_given_up(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with answering(said) as address, pytest.raises(BrokerError, match="the connection was lost"):
        await open_wire(address, MIB)
    assert "what answers is no RabbitMQ" in caplog.text


# ---- what is said


async def test_a_message_that_was_taken_is_confirmed(url: str, queue: str, admin: Any) -> None:
    async with opened(url) as wire:
        assert await all_confirmed(wire, *(Message(queue, str(n).encode()) for n in range(100))) == [""] * 100
    for number in range(100):
        message = admin.basic_get(queue, no_ack=True)
        assert message is not None
        assert message.body == str(number).encode()
        assert message.properties == {}


async def test_a_mandatory_message_that_has_nowhere_to_go_is_answered_so_and_no_other(url: str, queue: str) -> None:
    def letter(where: str, id_: str) -> Message:
        return Message(where, b"", properties("text/plain", "utf-8", {}, id_, ""), id_, mandatory=True)

    answers: dict[str, str] = {}
    done = asyncio.Event()
    sent = [letter(queue, "a"), letter("nowhere", "b"), letter(queue, "c"), letter("nowhere", "d")]

    def told(id_: str) -> Callable[[str], None]:
        def confirmed(fault: str) -> None:
            assert id_ not in answers
            answers[id_] = fault
            if len(answers) == len(sent):
                done.set()

        return confirmed

    async with opened(url) as wire:
        wire.publish(sent, [told(each.id) for each in sent])
        await asyncio.wait_for(done.wait(), DEADLINE)
        assert not wire._returned, "nothing is kept of what was answered"
    none = "there is no such queue"
    assert answers == {"a": "", "b": none, "c": "", "d": none}


async def test_a_queue_that_is_full_and_refuses_says_so(url: str, admin: Any) -> None:
    name = f"test-{uuid4().hex}"
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    admin.queue_declare(name, auto_delete=False, arguments=full)
    try:
        async with opened(url) as wire:
            assert await all_confirmed(wire, Message(name, b"one")) == [""]
            assert "it refuses the message" in await all_confirmed(wire, *[Message(name, b"more")] * 3)
    finally:
        admin.queue_delete(name)


async def test_headers_arrive_as_celery_reads_them(url: str, queue: str, admin: Any) -> None:
    headers = {
        "text": "ä" * 300, "none": None, "yes": True, "no": False, "small": 1, "large": -(2**40), "real": 0.1,
        "list": [1.5, None, ["x"]], "tuple": ("a", 1), "table": {"of": {"tables": 1}}, "empty": {},
    }  # fmt: skip
    async with opened(url) as wire:
        written = properties("application/json", "utf-8", headers, "an-id", "somewhere")
        assert await all_confirmed(wire, Message(queue, b"{}", written, "an-id")) == [""]
    message = admin.basic_get(queue, no_ack=True)
    assert message is not None
    read = message.properties
    assert json.dumps(read.pop("application_headers")) == json.dumps(headers)
    assert read == {
        "content_type": "application/json", "content_encoding": "utf-8", "correlation_id": "an-id",
        "reply_to": "somewhere", "delivery_mode": 1,
    }  # fmt: skip


# ---- what comes


async def listening(wire: Wire, queue: str, many: int) -> list[bytes]:
    """So many messages of that queue."""
    came: list[bytes] = []
    done = asyncio.Event()

    def take(bodies: list[bytes]) -> None:
        came.extend(bodies)
        if len(came) >= many:
            done.set()

    wire.came = take
    await wire.told(MAIN, commands.Basic.Consume(0, queue, no_ack=True))
    await asyncio.wait_for(done.wait(), DEADLINE)
    return came


async def test_large_messages_go_and_come_whole(url: str, queue: str) -> None:
    bodies = [b"", b"x", bytes(range(256)) * 2**14, b"y" * (2**17 - 8), b"z" * (2**17 - 7)]
    async with opened(url) as wire:
        assert await all_confirmed(wire, *(Message(queue, each) for each in bodies)) == [""] * len(bodies)
        assert await listening(wire, queue, len(bodies)) == bodies


async def test_of_a_message_that_is_too_large_nothing_is_kept(url: str, queue: str) -> None:
    async with opened(url, largest=1000) as wire:
        bodies = [b"a" * 1000, b"b" * 1001, b"c" * MIB, b"d"]
        for each in bodies:  # those that are large go by another channel
            await all_confirmed(wire, Message(queue, each))
        assert await listening(wire, queue, len(bodies)) == [b"a" * 1000, b"", b"", b"d"]


async def test_a_fault_in_whoever_listens_does_not_stop_what_comes(
    url: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(url) as wire:

        def fails(_: object) -> None:
            raise RuntimeError("this is the test's")

        wire.publish([Message(queue, b"")], [fails])
        assert await all_confirmed(wire, Message(queue, b"")) == [""]
    assert "this is the test's" in caplog.text


class Nowhere(asyncio.Transport):
    """What is written to it is lost."""

    def write(self, data: Any) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


def stream_of(bodies: list[bytes]) -> bytes:
    """As a broker says it."""
    said = b""
    for number, each in enumerate(bodies):
        said += frame.marshal(commands.Basic.Deliver("ctag", number, False, "", "q"), MAIN)
        said += frame.marshal(header.ContentHeader(0, len(each)), MAIN)
        for at in range(0, len(each), 7):
            said += frame.marshal(body.ContentBody(each[at : at + 7]), MAIN)
        said += b"\x08\0\0\0\0\0\0\xce"
    return said


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 50), max_size=50))
def test_frames_may_come_in_any_pieces(bodies: list[bytes], sizes: list[int]) -> None:
    async def comes() -> list[bytes]:
        wire = Wire(monotonic, MIB)
        wire.connection_made(Nowhere())
        came: list[bytes] = []
        wire.came = came.extend
        said = stream_of(bodies)
        for size in sizes:
            wire.data_received(said[:size])
            said = said[size:]
        wire.data_received(said)
        return came

    assert asyncio.run(comes()) == bodies


def test_a_message_is_written_in_frames_that_are_not_too_large() -> None:
    said = b"".join(written(Message("q", b"x" * 10_000), 4096))
    kinds, sizes, at = [], [], 0
    while at < len(said):
        size, channel, read = frame.unmarshal(said[at:])
        kinds.append(type(read).__name__)
        sizes.append(size)
        assert channel == MAIN
        at += size
    assert kinds == ["Publish", "ContentHeader", *["ContentBody"] * 3]
    assert max(sizes) == 4096


# ---- large messages


class Said(Nowhere):
    """What is written to it is kept: each publish by its channel and its body's size."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def published(self) -> list[tuple[int, int]]:
        found, at = list[tuple[int, int]](), 0
        while at < len(self.written):
            size, channel, read = frame.unmarshal(self.written[at:])
            if isinstance(read, header.ContentHeader):
                found.append((channel, read.body_size))
            at += size
        return found


def bulk_wire() -> tuple[Wire, Said]:
    wire, said = Wire(monotonic, MIB), Said()
    wire.connection_made(said)
    return wire, said


BIG, BIGGER, SMALL = Message("q", b"x" * BULKY), Message("q", b"x" * (BULKY + 1)), Message("q", b"x")


async def test_large_messages_go_one_after_the_other_by_a_channel_of_their_own() -> None:
    wire, said = bulk_wire()
    told: list[tuple[str, str]] = []
    wire.publish(
        [BIG, BIGGER, SMALL], [lambda fault, name=name: told.append((name, fault)) for name in ("one", "two", "small")]
    )
    assert said.published() == [(MAIN, 1), (BULK, BULKY)]
    wire.data_received(frame.marshal(commands.Basic.Ack(1), BULK))
    wire.data_received(frame.marshal(commands.Basic.Ack(1), MAIN))
    assert said.published() == [(MAIN, 1), (BULK, BULKY), (BULK, BULKY + 1)]
    wire.data_received(frame.marshal(commands.Basic.Nack(2), BULK))
    assert told == [("one", ""), ("small", ""), ("two", "it refuses the message")]


async def test_one_that_the_broker_refuses_fails_alone_and_the_others_go_on() -> None:
    """It closes the channel. Nothing else was under way there, so that it is known which it was."""
    wire, said = bulk_wire()
    lost, told = list[bool](), list[str]()
    wire.lost = lambda: lost.append(True)
    wire.publish([BIGGER, BIG], [told.append] * 2)
    too_large = commands.Channel.Close(406, "PRECONDITION_FAILED - message size", 60, 40)
    wire.data_received(frame.marshal(too_large, BULK))
    assert told == ["it refuses the message: PRECONDITION_FAILED - message size"]
    wire.publish([BIG], [told.append])
    assert len(said.published()) == 1, "the channel is not open"
    wire.data_received(frame.marshal(commands.Channel.OpenOk(), BULK))
    wire.data_received(frame.marshal(commands.Confirm.SelectOk(), BULK))
    assert said.published()[1:] == [(BULK, BULKY)]
    wire.data_received(frame.marshal(commands.Basic.Ack(1), BULK))
    wire.data_received(frame.marshal(commands.Basic.Ack(2), BULK))
    assert (told[1:], lost) == (["", ""], [])


async def test_of_large_ones_what_still_waits_is_dropped_where_nobody_wants_it_any_more() -> None:
    wire, said = bulk_wire()
    told: list[tuple[str, str]] = []
    ids = ("moving", "unwanted", "wanted")
    wire.publish(
        [BIG._replace(id=id_) for id_ in ids], [lambda fault, id_=id_: told.append((id_, fault)) for id_ in ids]
    )
    assert wire.unsend({"moving", "unwanted", "unknown"}) == {"unwanted"}
    assert wire.unsend({"unwanted"}) == set()
    for number in (1, 2):
        wire.data_received(frame.marshal(commands.Basic.Ack(number), BULK))
    assert told == [("moving", ""), ("wanted", "")]
    assert said.published() == [(BULK, BULKY)] * 2


async def test_a_large_one_that_comes_back_had_nowhere_to_go(url: str, queue: str) -> None:
    async with opened(url) as wire:
        wire.publish([Message(queue, b"x" * MIB)], [lambda _: None])
        nowhere = Message(f"test-{uuid4().hex}", b"x" * MIB, mandatory=True)
        assert await all_confirmed(wire, nowhere, Message(queue, b"y" * MIB)) == ["there is no such queue", ""]


async def test_what_is_large_and_waits_is_gone_with_the_connection() -> None:
    wire, said = bulk_wire()
    wire.publish([BIG, BIG], [lambda _: pytest.fail("it cannot be known")] * 2)
    assert wire.overdue(monotonic() + 1.0, 0.5)
    wire.drop()
    wire.data_received(frame.marshal(commands.Basic.Ack(1), BULK))
    assert len(said.published()) == 1


# ---- what fails


async def test_a_question_that_fails_takes_its_channel_and_no_other(url: str, queue: str) -> None:
    async with opened(url) as wire:
        with pytest.raises(BrokerError, match="NOT_FOUND"):
            await wire.told(LOOK, commands.Queue.Declare(0, f"test-{uuid4().hex}", passive=True))
        await wire.told(LOOK, commands.Channel.Open())
        there = await wire.told(LOOK, commands.Queue.Declare(0, queue, passive=True))
        assert isinstance(there, commands.Queue.DeclareOk)
        assert (there.queue, there.consumer_count) == (queue, 0)
        assert await all_confirmed(wire, Message(queue, b"")) == [""]


async def test_what_is_refused_where_messages_go_ends_the_connection_and_says_why(url: str) -> None:
    async with opened(url) as wire:
        lost = asyncio.Event()
        wire.lost = lost.set
        wire.publish([Message("", b"", exchange=f"test-{uuid4().hex}")], [lambda _: None])
        await asyncio.wait_for(lost.wait(), DEADLINE)
        assert "no exchange" in wire.why


async def test_a_queue_that_is_taken_away_ends_the_connection_that_listened(url: str, admin: Any) -> None:
    name = f"test-{uuid4().hex}"
    admin.queue_declare(name, auto_delete=False)
    async with opened(url) as wire:
        lost = asyncio.Event()
        wire.lost = lost.set
        await wire.told(MAIN, commands.Basic.Consume(0, name, no_ack=True))
        admin.queue_delete(name)
        await asyncio.wait_for(lost.wait(), DEADLINE)
        assert "cannot be read any more" in wire.why


async def test_loss_is_told_once_and_nothing_is_answered_after_it(url: str, queue: str) -> None:
    async with opened(url) as wire:
        losses: list[str] = []
        answers: list[object] = []
        wire.lost = lambda: losses.append("lost")
        wire.ask(LOOK, commands.Queue.Declare(0, queue, passive=True), answers.append)
        wire.publish([Message(queue, b"")], [answers.append])
        waits = asyncio.ensure_future(wire.told(MAIN, commands.Queue.Declare(0, queue, passive=True)))
        await asyncio.sleep(0)
        wire.drop()
        wire.drop()
        wire.publish([Message(queue, b"")], [answers.append])
        with pytest.raises(BrokerError, match="the connection was lost"):
            await waits
        with pytest.raises(BrokerError, match="the connection was lost"):
            await wire.told(MAIN, commands.Queue.Declare(0, queue, passive=True))
    assert losses == ["lost"]
    assert answers == []


async def test_it_is_overdue_while_something_waits_and_nothing_goes_on(url: str, queue: str) -> None:
    async with opened(url) as wire:
        soon = monotonic() + 100
        assert not wire.overdue(soon, 1.0), "nothing was asked"
        assert wire.silent(soon)
        answered: asyncio.Future[Method] = asyncio.get_running_loop().create_future()
        wire.ask(LOOK, commands.Queue.Declare(0, queue, passive=True), answered.set_result)
        assert wire.overdue(soon, 1.0)
        assert not wire.overdue(monotonic(), DEADLINE)
        await asyncio.wait_for(answered, DEADLINE)
        assert not wire.overdue(soon, 1.0)
        wire.publish([Message(queue, b"")], [lambda _: None])
        assert wire.overdue(monotonic() + 100, 1.0)


async def test_goodbye_is_said_after_all_that_was_said_before(url: str, queue: str, admin: Any) -> None:
    async with opened(url) as wire:
        await wire.told(MAIN, commands.Basic.Consume(0, queue, no_ack=True, exclusive=True))
        other = f"test-{uuid4().hex}"
        admin.queue_declare(other, auto_delete=False)
        wire.publish([Message(other, b"x" * MIB)] * 4, [lambda _: None] * 4)
        lost = asyncio.Event()
        wire.lost = lost.set
        wire.close()
        await asyncio.wait_for(lost.wait(), DEADLINE)
    assert admin.queue_declare(other, passive=True).message_count == 4
    admin.queue_delete(other)


# ---- one that blocks


@pytest.fixture
def line(url: str) -> Iterator[Line]:
    line = Line(address_of(url))
    yield line
    line.close()


def test_a_line_waits_until_the_broker_has_what_was_sent(line: Line, queue: str, admin: Any) -> None:
    for number in range(10):
        assert line.send("", queue, b"x" * MIB) == number + 1
    line.settle()
    assert not line.refused
    assert admin.queue_declare(queue, passive=True).message_count == 10


def test_a_line_reads_confirms_before_they_pile_up(line: Line, queue: str) -> None:
    for _ in range(3 * UNHEARD):
        line.send("", queue, b"")
    assert len(line._unconfirmed) <= UNHEARD
    line.settle()
    assert not line._unconfirmed


def test_a_line_tells_what_was_refused_and_what_came_back(line: Line, admin: Any) -> None:
    name = f"test-{uuid4().hex}"
    admin.queue_declare(name, auto_delete=False, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    try:
        line.send("", name, b"")
        line.settle()
        assert not line.refused
        numbers = {line.send("", name, b"") for _ in range(3)}
        line.settle()
        assert line.refused
        assert line.refused <= numbers
        line.send("", "nowhere", b"")
        line.settle()
        assert not line.returned
        line.send("", "nowhere", b"", mandatory=True)
        line.settle()
        assert line.returned
    finally:
        admin.queue_delete(name)


def test_a_line_listens(line: Line, url: str) -> None:
    name, exchange = f"test-{uuid4().hex}", f"test-{uuid4().hex}.all"
    hears = Line(address_of(url), 10)
    try:
        hears.declare(exchange, "fanout")
        hears.open_queue(name, exchange)
        assert hears.listen(0.01) == []
        line.send("", name, "\xff".encode("latin-1"))
        line.send(exchange, "", b"to all")
        line.settle()
        came: list[tuple[str, bytes]] = []
        until = monotonic() + DEADLINE
        while len(came) < 2 and monotonic() < until:
            came += hears.listen(1.0)
        assert came == [("", b"\xff"), (exchange, b"to all")]
    finally:
        hears._channel.exchange_delete(exchange)
        hears.close()


def test_a_broken_line_says_so_and_nothing_else_is_raised(line: Line, queue: str, url: str) -> None:
    line.drop()
    line.drop()
    with pytest.raises(BrokerError):
        line.send("", queue, b"")
    other = Line(address_of(url))
    other.send(f"test-{uuid4().hex}", queue, b"")
    with pytest.raises(BrokerError, match="no exchange"):
        other.settle()
    other.close()


def test_a_line_of_a_parent_process_is_left_alone(line: Line, queue: str) -> None:
    line._owner += 1
    line.close()
    line._owner -= 1
    line.send("", queue, b"")
    line.settle()


def test_a_line_to_whoever_is_silent_is_given_up() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        began = monotonic()
        with pytest.raises(BrokerError, match="timed out"):
            Line(address_of(f"amqp://127.0.0.1:{listener.getsockname()[1]}"))
        assert monotonic() - began < 3 * amqp_line.PATIENCE + DEADLINE
