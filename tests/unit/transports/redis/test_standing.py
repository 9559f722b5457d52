"""Loops that stand: whose work is quick and needs a CPU each, while those of this host that sit are enough."""

import asyncio
import threading
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from offloop.messages import Requeued
from offloop.transports.redis.desk import READ_AHEAD
from offloop.transports.redis.names import POOL, mark_of
from offloop.transports.redis.seat import CROWDED_AFTER, LAIN, Seat, Waits
from offloop.transports.redis.worker import BEHIND, RedisSource, relieve
from tests.support.broker import Broker
from tests.support.cluster import wait_until
from tests.unit.transports.redis.rig import DEADLINE, Cluster, Loop

AT_ONCE = 0.01


class Still(Waits):
    """Work that has needed its CPU so far, in whichever threads the test runs it."""

    often = False  # type: ignore[assignment]  # as the test says


class Scarce(Loop):
    """A loop with a seat that the test gives."""

    def __init__(self, cluster: Cluster, redis: Broker) -> None:
        self.said: list[tuple[str, int]] = []
        self.heard = threading.Event()
        self.seat = Seat(
            lambda turn: self._say("asks", turn),
            lambda turn: self._say("leaves", turn),
            lambda: self._say("crowded", 0),
        )
        super().__init__(cluster, redis, lambda _: self.seat)
        self.source._waits = self.waits = Still()

    def _say(self, what: str, turn: int) -> None:
        self.said.append((what, turn))
        self.heard.set()

    async def has_lain(self, seconds: float) -> None:
        """Until all that was put has lain at the broker for longer."""
        stream = self.cluster.names.requests(POOL)

        def so() -> bool:
            now, last = self.redis.cli("TIME"), self.redis.cli("XREVRANGE", stream, "+", "-", "COUNT", 1)
            return bool(last) and int(now[0]) + int(now[1]) / 1e6 - mark_of(last[0][0])[0] / 1000 > seconds

        await asyncio.to_thread(wait_until, so, "it has lain there")

    async def waits_there(self) -> None:
        """Until the broker has nothing for it, and lets it wait."""
        itself = f" addr={self.address()} ".encode()

        def so() -> bool:
            clients = self.redis.cli("CLIENT", "LIST").splitlines()
            return any(itself in client and b" flags=b " in client for client in clients)

        await asyncio.to_thread(wait_until, so, "it waits there")

    def address(self) -> str:
        """Of its connection, as the broker sees it."""
        assert self.source._line is not None
        return f"127.0.0.1:{self.source._line._socket.getsockname()[1]}"

    async def nothing(self) -> bool:
        """Whether it takes nothing, of what is there."""
        return await asyncio.to_thread(self.source.get, AT_ONCE) is None and self.given() == 0


@pytest.fixture
async def loop(redis: Broker) -> AsyncIterator[Scarce]:
    cluster = Cluster(redis.url)
    await cluster.start()
    scarce = Scarce(cluster, redis)
    await scarce.learn()
    assert scarce.said == [("asks", 1)]
    yield scarce
    await cluster.stop()


async def test_a_loop_without_a_seat_takes_nothing(loop: Scarce) -> None:
    rids = loop.put(2)
    assert await loop.nothing()
    assert loop.said == [("asks", 1)]
    loop.seat.give(1)
    assert [(await loop.get()).envelope.rid for _ in rids] == rids


async def test_a_seat_is_kept_while_work_is_quick(loop: Scarce) -> None:
    loop.seat.give(1)
    for _ in range(5):
        loop.put(1)
        await loop.run(await loop.get())
    assert loop.said == [("asks", 1)]


async def test_whose_work_takes_long_needs_no_seat(loop: Scarce) -> None:
    loop.seat.give(1)
    loop.put(2)
    await loop.run(await loop.get(), took=0.5)
    await loop.run(await loop.get())
    loop.put(1)
    await loop.get()
    assert loop.said == [("asks", 1), ("leaves", 1)]


async def test_whose_work_waits_needs_no_seat(loop: Scarce) -> None:
    loop.seat.give(1)
    loop.waits.often = True  # type: ignore[misc]
    loop.put(1)
    await loop.get()
    assert loop.said == [("asks", 1), ("leaves", 1)]


async def test_a_surprise_leaves_its_seat_to_another_at_once(loop: Scarce) -> None:
    loop.seat.give(1)
    loop.put(1)
    loop.heard.clear()
    threading.Thread(target=relieve, args=([loop.source],), daemon=True).start()
    await asyncio.to_thread(loop.begin, await loop.get())
    assert await asyncio.to_thread(loop.heard.wait, DEADLINE)
    wanted = [("asks", 1), ("crowded", 0), ("leaves", 1)]  # and to one more beside it
    while loop.said != wanted:
        loop.heard.clear()
        assert loop.said == wanted[: len(loop.said)]
        assert await asyncio.to_thread(loop.heard.wait, DEADLINE)


async def test_that_all_which_comes_has_lain_there_for_long_is_said(loop: Scarce) -> None:
    later = 0.0
    loop.source._clock = lambda: monotonic() + later
    loop.put(2 * (1 + READ_AHEAD))
    await loop.has_lain(LAIN)
    loop.seat.give(1)
    await loop.run(await loop.get())
    assert loop.said == [("asks", 1)]
    later = 2 * CROWDED_AFTER
    for _ in range(1 + READ_AHEAD):
        await loop.run(await loop.get())
    assert loop.said == [("asks", 1), ("crowded", 0)]


async def test_what_comes_while_it_waits_there_has_not_lain_there(loop: Scarce) -> None:
    later = 0.0
    loop.source._clock = lambda: monotonic() + later
    loop.seat.give(1)
    for _ in range(3):
        getting = asyncio.create_task(loop.get())
        await loop.waits_there()
        loop.put(1)
        await loop.run(await getting)
        later += 2 * CROWDED_AFTER
    assert loop.said == [("asks", 1)]


async def test_who_loses_its_connection_leaves_its_seat_to_another(loop: Scarce) -> None:
    loop.seat.give(1)
    assert await loop.nothing()
    loop.redis.cli("CLIENT", "KILL", "ADDR", loop.address())
    assert await loop.nothing()
    assert loop.said == [("asks", 1), ("leaves", 1)]
    rids = loop.put(1)  # it looks for what it may have been given before it stands
    assert (await loop.get()).envelope.rid == rids[0]


async def test_what_has_ended_is_told_before_a_loop_stands(loop: Scarce) -> None:
    loop.seat.give(1)
    rids = loop.put(1)
    await loop.run(await loop.get())
    loop.seat.leave()
    assert await loop.nothing()
    await loop.until(*rids)
    assert loop.said[-1] == ("asks", 2)


async def test_what_it_may_have_been_given_unseen_it_looks_for_without_a_seat(loop: Scarce) -> None:
    loop.source._doubt()
    rids = loop.put(1)
    assert (await loop.get()).envelope.rid == rids[0]


async def test_a_stop_ends_the_standing(loop: Scarce) -> None:
    loop.put(1)
    getting = asyncio.create_task(asyncio.to_thread(loop.source.get, DEADLINE))
    await asyncio.sleep(0)
    loop.source.stop()
    async with asyncio.timeout(DEADLINE / 2):
        assert await getting is None
    assert loop.given() == 0
    loop.source.close()
    assert loop.said == [("asks", 1), ("leaves", 1)]


async def test_what_was_read_ahead_goes_back_when_its_seat_does(loop: Scarce) -> None:
    loop.seat.give(1)
    rids = loop.put(3)
    await asyncio.to_thread(loop.begin, await loop.get())
    source: RedisSource = loop.source
    assert source._job is not None
    source.relieve(source._job.began_at + 2 * BEHIND)
    await loop.until(*rids[1:], kind=Requeued)
    assert not loop.seat.taken
