"""Connections to a Redis: what is asked is answered in order, what breaks is told, and nothing waits for ever."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import hiredis
import pytest

from offloop.clock import monotonic
from offloop.errors import SettingsError
from offloop.transports.redis import wire
from offloop.transports.redis.scripts import hash_of
from offloop.transports.redis.wire import (
    LARGE,
    SLOWEST,
    UNHEARD,
    Address,
    BrokerError,
    Channel,
    Command,
    Line,
    Reply,
    ReplyError,
    address_of,
    ask_all,
    open_channel,
    pack,
)
from tests.support.broker import Broker, broker
from tests.support.daemon import free_port
from tests.support.proxy import proxy

DEADLINE = 10.0


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
        yield address_of(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(DEADLINE)


@pytest.fixture
def replica() -> Iterator[Broker]:
    """Of nobody who is there."""
    with broker() as server:
        server.cli("REPLICAOF", "127.0.0.1", free_port())
        yield server


# ---- addresses


def test_a_url_says_where_and_who_and_is_shown_without_that() -> None:
    address = address_of("redis://me:se%2Fcret@host:7000/3")
    assert (address.host, address.port, address.database) == ("host", 7000, 3)
    assert (address.username, address.password) == ("me", "se/cret")
    assert str(address) == "host:7000/3"
    assert "cret" not in repr(address)
    assert address.greeting()[:2] == [("AUTH", "me", "se/cret"), ("SELECT", 3)]


def test_a_password_alone_and_the_first_database_need_no_more_words() -> None:
    assert address_of("redis://:secret@host").greeting()[0] == ("AUTH", "secret")
    assert [command[0] for command in address_of("redis://host").greeting()] == ["CLIENT"]


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("redis://localhost", True), ("redis://127.8.0.1", True), ("redis://[::1]:7000", True),
        ("redis+unix:///run/redis.sock", True), ("redis://10.0.0.1", False), ("rediss://redis.example", False),
    ],
)  # fmt: skip
def test_only_what_stays_on_this_host_is_local(url: str, local: bool) -> None:
    assert address_of(url).local is local


def test_tls_checks_certificates_unless_it_is_told_otherwise() -> None:
    checked, loose = address_of("rediss://host").tls, address_of("rediss://host?ssl_cert_reqs=none").tls
    assert checked is not None
    assert loose is not None
    assert (checked.check_hostname, checked.verify_mode.name) == (True, "CERT_REQUIRED")
    assert (loose.check_hostname, loose.verify_mode.name) == (False, "CERT_NONE")
    assert address_of("redis://host").tls is None


@pytest.mark.parametrize("url", ["redis://host:port", "redis://:sec@ret@host/0?a=@", "redis://:se/cret@host"])
def test_a_url_that_cannot_be_used_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        address_of(url)
    assert "OFFLOOP_BROKER_URL" in str(refused.value)
    assert "cret" not in str(refused.value)


# ---- a line


def test_several_commands_are_answered_in_their_order_and_errors_are_answers(line: Line) -> None:
    pong, error, none, number = line.exchange([("PING",), ("NO-SUCH",), ("GET", "nothing"), ("INCR", "count")])
    assert (pong, none, number) == (b"PONG", None, 1)
    assert isinstance(error, ReplyError)


def test_what_nobody_waits_for_is_passed_over_and_counted_where_it_was_refused(line: Line) -> None:
    line.send([("SET", "a", 1), ("NO-SUCH",)])
    line.send([("GET", "nothing")])
    assert line.exchange([("GET", "a")]) == [b"1"]
    assert line.refused == 2


def test_much_that_nobody_waits_for_is_read_all_the_same(line: Line) -> None:
    for _ in range(3 * UNHEARD):
        line.send([("PING",)])
    assert line._owed <= UNHEARD
    line.settle()
    assert line._owed == line.refused == 0


def test_a_large_value_comes_whole(line: Line) -> None:
    value = bytes(range(256)) * 2**14
    assert line.exchange([("SET", "large", value), ("GET", "large")])[1] == value


def test_a_script_that_the_broker_has_forgotten_is_told_again_and_called_once(redis: Broker) -> None:
    script = "return redis.call('INCR', KEYS[1])"
    line = Line(address_of(redis.url), scripts=[script])
    called = ("EVALSHA", hash_of(script), 1, "calls")
    redis.cli("SCRIPT", "FLUSH")
    assert line.exchange([("PING",), called, ("ECHO", "x")]) == [b"PONG", 1, b"x"]
    assert line.exchange([called]) == [2]
    [unknown] = line.exchange([("EVALSHA", hash_of("return 1"), 0)])
    assert isinstance(unknown, ReplyError)
    line.close()


def test_where_nobody_listens_there_is_no_line() -> None:
    with pytest.raises(BrokerError, match="127.0.0.1"):
        Line(address_of(f"redis://127.0.0.1:{free_port()}"))


def test_where_there_is_no_such_socket_there_is_no_line(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="none.sock"):
        Line(address_of(f"redis+unix://{tmp_path}/none.sock"))


def test_whoever_is_refused_is_told_why() -> None:
    with broker("--requirepass", "secret") as server:
        with pytest.raises(BrokerError, match="NOAUTH"):
            Line(address_of(server.url))
        with pytest.raises(BrokerError, match="WRONGPASS"):
            Line(address_of(server.url.replace("redis://", "redis://:wrong@")))
        right = Line(address_of(server.url.replace("redis://", "redis://:secret@")))
        assert right.exchange([("PING",)]) == [b"PONG"]
        right.close()


def test_a_broker_that_ends_is_noticed_by_who_waits() -> None:
    with broker() as server, closing(Line(address_of(server.url))) as line:
        waits = threading.Timer(0, server.stop)
        waits.start()
        with pytest.raises(BrokerError):
            line.exchange([("BLPOP", "nothing", 0)], waits=DEADLINE)
        waits.join()
        with pytest.raises(BrokerError):
            line.exchange([("PING",)])


def test_a_broker_that_hangs_is_not_waited_for_longer_than_patience() -> None:
    with broker() as server, closing(Line(address_of(server.url), patience=0.1)) as line:
        server.pause()
        began = monotonic()
        with pytest.raises(BrokerError, match="timed out"):
            line.exchange([("PING",)])
        assert monotonic() - began < DEADLINE
        server.resume()


def test_what_a_way_takes_in_many_parts_is_sent_whole(line: Line) -> None:
    """`sendall` would have one limit of time for all of it."""

    class Narrow:
        def __init__(self, wide: socket.socket) -> None:
            self.sends = 0
            self._wide = wide

        def send(self, data: bytes) -> int:
            self.sends += 1
            return self._wide.send(data[:1000])

        def __getattr__(self, name: str) -> object:
            return getattr(self._wide, name)

    narrow = Narrow(line._socket)
    line._socket = narrow  # type: ignore[assignment]
    value = bytes(range(256)) * 20
    assert line.exchange([("SET", "in parts", value), ("GET", "in parts")])[1] == value
    assert narrow.sends > 5


def test_a_large_command_is_waited_for_as_long_as_a_slow_way_takes(redis: Broker) -> None:
    with proxy(redis.port) as way, closing(Line(address_of(f"redis://127.0.0.1:{way.port}"), patience=0.2)) as line:
        way.slow(4 * SLOWEST)  # which has taken all of it at once
        assert line.exchange([("SET", "large", bytes(2 * SLOWEST))]) == [b"OK"]


def test_a_broker_that_was_made_a_replica_is_none(replica: Broker) -> None:
    with closing(Line(address_of(replica.url))) as line, pytest.raises(BrokerError, match="READONLY"):
        line.exchange([("PING",), ("SET", "a", 1)])


def test_what_is_no_redis_is_told_as_such() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address, pytest.raises(BrokerError):
        Line(address)
    with answering() as address, pytest.raises(BrokerError):
        Line(address)


# ---- a channel


async def opened(redis: Broker) -> Channel:
    return await open_channel(address_of(redis.url))


async def ended(channel: Channel) -> None:
    channel.lost = lambda: None
    channel.drop()
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_is_asked_is_answered_in_order_however_it_was_put_together(redis: Broker) -> None:
    channel = await opened(redis)
    came: list[Reply] = []
    for number in range(10):
        channel.asks([("ECHO", number), ("ECHO", -number)], [came.append] * 2)
    channel.ask(("ECHO", "last"), came.append)
    await ask_all(channel, [("PING",)])
    assert came[-1] == b"last"
    assert [int(each) for each in came[:-1]] == [sign * n for n in range(10) for sign in (1, -1)]
    await ended(channel)


async def test_an_answer_that_its_asker_cannot_use_does_not_stop_the_reader(
    redis: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await opened(redis)
    channel.ask(("PING",), lambda _: 1 / 0)
    pong, error = await ask_all(channel, [("PING",), ("NO-SUCH",)])
    assert pong == b"PONG"
    assert isinstance(error, ReplyError)
    assert "could not be used" in caplog.text
    await ended(channel)


async def test_a_channel_tells_its_scripts_again_once_the_broker_has_forgotten_one(redis: Broker) -> None:
    script = "return 'known'"
    channel = await opened(redis)
    channel.scripts = [("SCRIPT", "LOAD", script)]
    redis.cli("SCRIPT", "FLUSH")
    called = ("EVALSHA", hash_of(script), 0)
    [first] = await ask_all(channel, [called])
    assert isinstance(first, ReplyError)
    assert await ask_all(channel, [called]) == [b"known"]
    await ended(channel)


async def test_what_was_not_answered_never_is_once_the_connection_is_lost(redis: Broker) -> None:
    channel = await opened(redis)
    came, lost = list[Reply](), list[bool]()
    channel.lost = lambda: lost.append(True)
    channel.ask(("BLPOP", "nothing", 0), came.append)
    channel.drop()
    channel.drop()
    channel.ask(("PING",), came.append)
    await ended(channel)
    assert (came, lost) == ([], [True])
    assert not channel.overdue(float("inf"), 0.0)  # nothing is waited for, and the command after the end was not sent


async def test_whoever_waits_for_answers_is_told_that_the_connection_is_lost() -> None:
    with broker() as server:
        channel = await open_channel(address_of(server.url))
        asking = asyncio.ensure_future(ask_all(channel, [("BLPOP", "nothing", 0)]))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.stop)
        with pytest.raises(BrokerError, match="lost"):
            await asking


async def test_the_oldest_question_says_whether_an_answer_is_overdue(redis: Broker) -> None:
    now = 100.0
    channel = await open_channel(address_of(redis.url), lambda: now)
    assert not channel.overdue(now + 99, 1.0)
    channel.ask(("BLPOP", "nothing", 0), lambda _: None, 5.0)
    now = 105.0
    channel.ask(("PING",), lambda _: None)
    assert not channel.overdue(105.9, 1.0)
    assert channel.overdue(106.1, 1.0)
    await ended(channel)


async def test_a_large_question_may_take_longer(redis: Broker) -> None:
    channel = await open_channel(address_of(redis.url), lambda: 100.0)
    channel.ask(("SET", "large", bytes(3 * SLOWEST)), lambda _: None)
    assert not channel.overdue(103.9, 1.0)
    assert channel.overdue(104.1, 1.0)
    await ended(channel)


async def test_an_answer_that_is_still_coming_is_not_overdue() -> None:
    now, more = 100.0, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**16)
        writer.write(b"+OK\r\n")
        await reader.read(2**16)
        writer.write(b"$4\r\nsl")
        await more.wait()
        writer.write(b"ow\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    channel = await open_channel(address_of(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"), lambda: now)
    asking = asyncio.ensure_future(ask_all(channel, [("GET", "a")]))
    await asyncio.sleep(0)
    assert channel.overdue(101.1, 1.0)
    now = 105.0
    async with asyncio.timeout(DEADLINE):
        while channel.overdue(105.9, 1.0):  # noqa: ASYNC110  (nothing tells that a part has come)
            await asyncio.sleep(0.005)
    assert channel.overdue(106.1, 1.0)
    more.set()
    assert await asking == [b"slow"]
    await ended(channel)
    server.close()
    await server.wait_closed()


async def test_what_leaves_by_and_by_is_a_sign_of_life() -> None:
    class Narrow:
        unsent = 30

        def write(self, data: bytes) -> None: ...
        def get_write_buffer_size(self) -> int:
            return self.unsent

    now, narrow = 100.0, Narrow()
    channel = Channel(lambda: now)
    channel._transport = narrow  # type: ignore[assignment]
    channel.ask(("PING",), lambda _: None)
    assert not channel.overdue(100.9, 1.0)
    narrow.unsent = 20
    assert not channel.overdue(101.8, 1.0)
    assert not channel.overdue(102.7, 1.0)
    assert channel.overdue(102.9, 1.0)


async def test_a_channel_to_what_was_made_a_replica_is_given_up(replica: Broker) -> None:
    channel, lost = await opened(replica), asyncio.Event()
    channel.lost = lost.set
    channel.ask(("SET", "a", 1), lambda _: None)
    async with asyncio.timeout(DEADLINE):
        await lost.wait()
    assert "READONLY" in str(channel.fault)
    await ended(channel)


async def test_a_channel_to_nowhere_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CONNECT_WITHIN", 0.1)
    with pytest.raises(BrokerError):
        await open_channel(address_of(f"redis://127.0.0.1:{free_port()}"))
    with broker() as server:
        server.pause()
        with pytest.raises(BrokerError, match="TimeoutError"):
            await open_channel(address_of(server.url))
        server.resume()


async def test_a_channel_to_what_is_no_redis_is_given_up() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        with pytest.raises(BrokerError):
            await open_channel(address)
        await asyncio.sleep(0)


async def test_a_unix_socket_serves_as_well() -> None:
    with broker("--unixsocket", "redis.sock") as server:
        address = address_of(f"redis+unix://{server.folder}/redis.sock")
        channel = await open_channel(address)
        assert await ask_all(channel, [("PING",)]) == [b"PONG"]
        await ended(channel)
        with closing(Line(address)) as line:
            assert line.exchange([("PING",)]) == [b"PONG"]


@pytest.mark.parametrize("size", [0, 1, LARGE, LARGE + 1, 3 * LARGE])
def test_what_is_large_is_packed_as_anything_else(size: int) -> None:
    commands: list[Command] = [("PING",), ("LPUSH", "key", b"x" * size, 12, "\xe4"), ("SET", b"k", "v")]
    assert pack(commands) == b"".join(hiredis.pack_command(command) for command in commands)  # type: ignore[arg-type]
