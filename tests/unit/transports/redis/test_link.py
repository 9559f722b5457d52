"""A link is kept up, tells when it is not, reads every entry once, and knows the broker's clock."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from offloop.clock import monotonic
from offloop.transports.redis import link
from offloop.transports.redis.link import BELIEVED, Link
from offloop.transports.redis.wire import BrokerError, Command, Reply, address_of
from tests.support.broker import Broker, broker
from tests.support.daemon import free_port
from tests.support.proxy import proxy

DEADLINE = 10.0


class User:
    """`link.User` that notes what it is told."""

    def __init__(self) -> None:
        self.stream = f"stream-{uuid4().hex}"
        self.told: list[str] = []
        self.entries: list[bytes] = []
        self.beats = 0

    def opening(self) -> Sequence[Command]:
        return [("NO-SUCH",), ("XGROUP", "CREATE", self.stream, "owner", "$", "MKSTREAM")]

    def up(self) -> None:
        self.told.append("up")

    def down(self) -> None:
        self.told.append("down")

    def came(self, entries: Sequence[Reply]) -> None:
        self.entries += [fields[1] for _, fields in entries]

    def beat(self, number: int) -> None:
        self.beats = number


async def until(true: Callable[[], bool]) -> None:
    """Each look is a turn of the event loop; the deadline fails."""
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.005)


class Linked:
    """A user and its link, served."""

    def __init__(self, url: str) -> None:
        self.user = User()
        self.link = Link(address_of(url), monotonic, self.user)
        self.life = asyncio.ensure_future(self.link.serve())

    async def end(self) -> None:
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def own() -> AsyncIterator[Broker]:
    """One to stop."""
    with broker() as server:
        yield server


async def test_what_is_written_comes_once_and_in_order(redis: Broker) -> None:
    linked = Linked(redis.url)
    user = linked.user
    await until(lambda: linked.link.is_up)
    for number in range(50):
        linked.link.ask(("XADD", user.stream, "*", "n", number), lambda _: None)
    await until(lambda: len(user.entries) == 50)
    assert [int(entry) for entry in user.entries] == list(range(50))
    await linked.end()
    assert user.told == ["up", "down"]


async def test_several_questions_are_answered_together(redis: Broker) -> None:
    linked = Linked(redis.url)
    await until(lambda: linked.link.is_up)
    answers: list[list[Reply]] = []
    linked.link.ask_together([("ECHO", 1), ("ECHO", 2)], answers.append)
    await until(lambda: bool(answers))
    assert answers == [[b"1", b"2"]]
    await linked.end()
    linked.link.ask_together([("ECHO", 1)], answers.append)
    linked.link.ask(("ECHO", 1), answers.append)
    assert len(answers) == 1


async def test_without_a_broker_a_start_fails_and_a_life_goes_on_trying() -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    linked = Linked(url)
    with pytest.raises(BrokerError):
        await Link(address_of(url), monotonic, User()).connect()
    assert not linked.link.is_up
    await linked.end()
    assert linked.user.told == []


async def test_what_came_while_the_link_was_broken_is_read_over_the_next(own: Broker) -> None:
    linked = Linked(own.url)
    user = linked.user
    await until(lambda: linked.link.is_up)
    own.cli("XADD", user.stream, "*", "n", "before")
    await until(lambda: len(user.entries) == 1)
    own.cli("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    own.cli("XADD", user.stream, "*", "n", "meanwhile")
    await until(lambda: len(user.entries) == 2)
    assert user.entries == [b"before", b"meanwhile"]
    assert user.told == ["up", "down", "up"]
    await linked.end()


async def test_a_broker_that_comes_back_empty_is_served_again(own: Broker) -> None:
    linked = Linked(own.url)
    user = linked.user
    await until(lambda: linked.link.is_up)
    await asyncio.to_thread(own.kill)
    await until(lambda: user.told == ["up", "down"])
    await asyncio.to_thread(own.start)
    await until(lambda: linked.link.is_up)
    own.cli("XADD", user.stream, "*", "n", "new")
    await until(lambda: user.entries == [b"new"])
    await linked.end()


async def test_a_broker_that_hangs_is_given_up_within_a_second(own: Broker) -> None:
    linked = Linked(own.url)
    await until(lambda: linked.user.beats > 0)
    own.pause()
    began = monotonic()
    await until(lambda: not linked.link.is_up)
    taken = monotonic() - began
    own.resume()
    await until(lambda: linked.link.is_up)
    await linked.end()
    assert taken < 1.5  # a second, and what a busy machine takes


async def test_what_comes_slowly_is_waited_for(redis: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "WAITS", 0.1)
    with proxy(redis.port) as way:
        linked = Linked(f"redis://127.0.0.1:{way.port}")
        await until(lambda: linked.link.is_up)
        large = bytes(2**21)
        way.slow(len(large) / (2 * link.PATIENCE))
        redis.cli("XADD", linked.user.stream, "*", "n", large)
        await until(lambda: bool(linked.user.entries))
        assert linked.user.entries == [large]
        assert linked.user.told == ["up"]
        await linked.end()


async def test_much_that_has_come_is_read_by_and_by_over_a_new_connection(own: Broker) -> None:
    linked = Linked(own.url)
    user, together = linked.user, list[int]()
    await until(lambda: linked.link.is_up)
    own.cli("XADD", user.stream, "*", "n", 0)
    await until(lambda: len(user.entries) == 1)
    came = user.came
    user.came = lambda entries: (together.append(len(entries)), came(entries))[1]  # type: ignore[method-assign]
    own.cli("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    await until(lambda: user.told == ["up", "down", "up"])
    own.cli("EVAL", "for n = 1, 20 do redis.call('XADD', KEYS[1], '*', 'n', n) end", 1, user.stream)
    await until(lambda: len(user.entries) == 21)
    assert [int(entry) for entry in user.entries] == list(range(21))
    assert together == [1, 2, 4, 8, 5]
    await linked.end()


async def test_a_broker_that_was_made_a_replica_is_left_until_there_is_a_better_one(own: Broker) -> None:
    linked = Linked(own.url)
    user = linked.user
    await until(lambda: linked.link.is_up)
    own.cli("REPLICAOF", "127.0.0.1", free_port())
    linked.link.ask(("XADD", user.stream, "*", "n", "lost"), lambda _: None)
    await until(lambda: user.told == ["up", "down"])
    with pytest.raises(BrokerError, match="READONLY"):
        await Link(address_of(own.url), monotonic, User()).connect()
    own.cli("REPLICAOF", "NO", "ONE")
    await until(lambda: linked.link.is_up)
    await linked.end()


async def test_an_instant_is_the_same_at_the_broker_as_far_as_a_question_takes(redis: Broker) -> None:
    linked = Linked(redis.url)
    await until(lambda: linked.link.is_up)
    link = linked.link
    assert link.broker_time(monotonic()) == pytest.approx(time.time(), abs=0.05)
    assert link.local_time(link.broker_time(12.5)) == pytest.approx(12.5, abs=1e-3)
    assert link.local_time(0.0) == 0.0
    await linked.end()


def test_of_many_readings_of_a_clock_the_quickest_counts_until_it_is_old_or_contradicted() -> None:
    now = 100.0
    link = Link(address_of("redis://nowhere"), lambda: now, User())

    def reading(at: float, took: float, offset: float) -> float:
        """Asked at `at`, answered `took` later, by a clock that was `offset` ahead half way; what is believed then."""
        nonlocal now
        now = at + took
        exact = at + took / 2 + offset
        link._set_clock([str(int(exact)).encode(), str(int(exact % 1 * 1e6)).encode()], at)
        return link.broker_time(0.0)

    assert reading(100.0, 0.2, 1000.05) == pytest.approx(1000.05, abs=1e-4)
    assert reading(101.0, 0.001, 1000.0) == pytest.approx(1000.0, abs=1e-4)
    assert reading(102.0, 0.2, 1000.08) == pytest.approx(1000.0, abs=1e-4)  # slow, and so may be wrong
    assert reading(103.0, 0.2, 1005.0) == pytest.approx(1005.0, abs=1e-4)  # that clock was set
    assert reading(104.0, 0.001, 1005.0) == pytest.approx(1005.0, abs=1e-4)
    assert reading(104.0 + BELIEVED + 1, 0.2, 1005.09) == pytest.approx(1005.09, abs=1e-4)  # the best one is old


async def test_it_ends_when_it_is_to_though_its_opening_is_answered_at_that_moment(
    own: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` of Python 3.11 gives the answer then, and the cancellation is lost."""
    asked = link.ask_all

    async def answered(*args: Any) -> list[Reply]:
        replies = await asked(*args)
        linked.life.cancel()
        return replies

    monkeypatch.setattr(link, "ask_all", answered)
    linked = Linked(own.url)
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait([linked.life])
    assert linked.life.cancelled()
    await linked.end()
