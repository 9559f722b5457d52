"""What a loop reads ahead: how much, what is told of it when, and that nobody waits behind what takes long."""

import asyncio
import threading
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from offloop.messages import Freed, Outcome, Requeued, Withdrawn
from offloop.transports.redis.desk import READ_AHEAD
from offloop.transports.redis.worker import BEHIND, Ended, relieve
from tests.support.broker import Broker, broker
from tests.unit.transports.redis.rig import DEADLINE, Cluster, Loop

SLOW = 0.5
"""Seconds that a loop says it took."""


@pytest.fixture(params=[(), ("a key that signs",)], ids=["unsigned", "signed"])
async def loop(redis: Broker, request: pytest.FixtureRequest) -> AsyncIterator[Loop]:
    cluster = Cluster(redis.url, keys=request.param)
    await cluster.start()
    yield Loop(cluster, redis)
    await cluster.stop()


async def test_what_nothing_is_known_of_is_taken_one_by_one(loop: Loop) -> None:
    loop.put(3)
    await loop.get()
    assert loop.given() == 1


async def test_what_is_quick_is_taken_together_in_order_and_told_together(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(3 * READ_AHEAD)
    await loop.until()
    first = await loop.get()
    assert loop.given() == READ_AHEAD + 1
    await loop.run(first)
    seen = [first.envelope.rid]
    for _ in range(READ_AHEAD):
        delivery = await loop.get()
        await loop.run(delivery)
        seen.append(delivery.envelope.rid)
    assert seen == rids[: READ_AHEAD + 1]
    assert not loop.reports  # it goes out with the next question
    await loop.get()
    await loop.until(*seen)
    assert [report.rid for report in loop.reports if isinstance(report, Outcome)] == seen
    assert loop.given() == READ_AHEAD + 1


async def test_what_takes_longer_is_taken_in_smaller_numbers(loop: Loop) -> None:
    await loop.learn(took=0.0006)
    loop.put(READ_AHEAD)
    await loop.get()
    assert loop.given() == 3  # within 2 ms


async def test_one_that_took_long_is_enough_to_take_one_by_one_again(loop: Loop) -> None:
    await loop.learn()
    await loop.learn("again", took=SLOW)
    loop.put(3)
    await loop.get()
    assert loop.given() == 1


async def test_behind_a_surprise_nobody_waits(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(4)
    await loop.run(await loop.get())
    await asyncio.to_thread(loop.begin, held := await loop.get())
    now = monotonic()
    assert loop.source.relieve(now)  # not yet
    assert not loop.reports
    assert loop.given() == 4
    await asyncio.to_thread(loop.source.relieve, now + BEHIND)
    await loop.until(rids[0])
    await loop.until(*rids[2:], kind=Requeued)
    assert not [report for report in loop.reports if isinstance(report, Outcome) and report.rid != rids[0]]
    two = loop.cluster.worker(1)
    assert [(await asyncio.to_thread(two.get, DEADLINE)).envelope.rid for _ in rids[2:]] == rids[2:]  # type: ignore[union-attr]
    assert not loop.source.relieve(now + 1)  # there is nothing left to do for others
    await asyncio.to_thread(loop.source.send, Outcome(held.envelope.rid))
    await asyncio.to_thread(loop.source.get, 0.01)
    await loop.until(rids[1])


async def test_what_is_known_to_take_long_begins_when_all_behind_it_are_others(loop: Loop) -> None:
    await loop.learn("again", took=0.02)
    while loop.source._durations.expected("") > 100:  # what is read next is expected by what was read lately
        await loop.learn()
    first, *slow = [*loop.put(1), *loop.put(1, "again")]
    rest = loop.put(2)
    await loop.run(await loop.get())
    assert loop.given() == 4
    delivery = await loop.get()
    assert [delivery.envelope.rid] == slow
    await loop.until(first)
    await loop.until(*rest, kind=Requeued)
    assert loop.given() == 1
    await loop.run(delivery)


async def test_who_looks_after_loops_is_woken_by_them(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(2)
    threading.Thread(target=relieve, args=([loop.source],), daemon=True).start()
    await asyncio.to_thread(loop.begin, await loop.get())
    await loop.until(rids[1], kind=Requeued)


async def test_what_nobody_waits_for_any_more_never_begins(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(3)
    await loop.run(await loop.get())
    loop.worker.open[rids[1]].cancel()
    assert not (await loop.get()).begin()
    last = await loop.get()
    assert last.envelope.rid == rids[2]
    await loop.run(last)
    await asyncio.to_thread(loop.source.get, 0.01)
    await loop.until(rids[0], rids[2])
    await loop.until(rids[1], kind=Withdrawn)
    assert not loop.worker.open
    assert loop.given() == 0


async def test_what_is_withdrawn_behind_another_is_not_said_to_have_begun_or_not(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(2)
    await asyncio.to_thread(loop.begin, await loop.get())
    assert loop.cluster.web.withdraw(rids[1]) is None
    await loop.until(rids[1], kind=Withdrawn)
    assert loop.reports == [Withdrawn(rids[1], begun=None)]


async def test_what_a_loop_has_alone_has_begun_when_it_is_withdrawn(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(2)
    await asyncio.to_thread(loop.begin, await loop.get())
    await asyncio.to_thread(loop.source.relieve, monotonic() + BEHIND)
    await loop.until(rids[1], kind=Requeued)
    assert loop.cluster.web.withdraw(rids[0]) is None
    await loop.until(rids[0], kind=Withdrawn)
    assert loop.reports[-1] == Withdrawn(rids[0], begun=True)


async def test_who_looks_after_loops_sleeps_while_nobody_waits(loop: Loop) -> None:
    await loop.learn()
    loop.put(1)
    await asyncio.to_thread(loop.begin, await loop.get())
    assert not loop.worker.desk.busy.is_set()


async def test_a_loop_that_stops_gives_back_what_it_has_not_begun(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(4)
    await loop.run(await loop.get())
    loop.source.stop()
    assert await asyncio.to_thread(loop.source.get, DEADLINE) is None
    await loop.until(rids[0])
    await loop.until(*rids[1:], kind=Requeued)
    assert loop.given() == 0
    assert not loop.worker.open


async def test_a_loop_that_dies_loses_what_it_has_begun_and_nothing_else(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(4)
    await loop.run(await loop.get())
    await asyncio.to_thread(loop.begin, await loop.get())
    loop.worker.die()
    loop.cluster.host.lose(loop.worker)
    await loop.until(*rids[:2])  # the first had ended, but nobody was told
    await loop.until(*rids[2:], kind=Requeued)
    lost = {report.rid: report.reason for report in loop.reports if isinstance(report, Outcome)}
    assert lost == dict.fromkeys(rids[:2], "worker-lost")


async def test_what_a_loop_was_about_to_begin_when_it_died_begins_elsewhere(loop: Loop) -> None:
    """A signature is looked up before: that it was seen is no reason to refuse it then."""
    [rid] = loop.put(1)
    assert (await loop.get()).envelope.rid == rid
    loop.worker.die()
    loop.cluster.host.lose(loop.worker)
    await loop.until(rid, kind=Requeued)
    again = await asyncio.to_thread(loop.cluster.worker(1).get, DEADLINE)
    assert again is not None
    assert (again.envelope.rid, again.envelope.attempt) == (rid, 1)
    assert again.begin()


async def test_a_connection_that_breaks_loses_nothing_and_doubles_nothing(loop: Loop) -> None:
    await loop.learn()
    rids = loop.put(4)
    await loop.run(await loop.get())
    assert loop.source._line is not None
    loop.source._line.close()
    ran = []
    while len(ran) < 3:
        delivery = await loop.get()
        await loop.run(delivery)
        ran.append(delivery.envelope.rid)
    while len(loop.reports) < len(rids):
        await asyncio.to_thread(loop.source.get, 0.01)
    await loop.until(*rids)
    assert ran == rids[1:]
    assert loop.given() == 0


async def test_a_reply_after_which_its_loop_goes_on_is_told_at_once_and_before_all_else(loop: Loop) -> None:
    [rid] = loop.put(1)
    delivery = await loop.get()
    await asyncio.to_thread(loop.begin, delivery)
    await asyncio.to_thread(loop.source.send, Outcome(rid, last=False))
    assert not loop.source._ended  # the broker has said that it has it
    await loop.until(rid)
    assert loop.given() == 1
    await asyncio.to_thread(loop.source.send, Freed(rid, 1, loop.worker.name))
    await asyncio.to_thread(loop.source.get, 0.01)
    assert loop.given() == 0
    assert loop.ended() == [rid]


async def test_a_reply_that_was_lost_with_a_connection_is_told_again_though_its_loop_goes_on(loop: Loop) -> None:
    [rid] = loop.put(1)
    await asyncio.to_thread(loop.begin, await loop.get())
    assert loop.source._line is not None
    loop.source._line.close()
    await asyncio.to_thread(loop.source.send, Outcome(rid, last=False))
    assert loop.ended() == []
    assert loop.worker.desk.busy.is_set()  # who looks after loops is to tell it
    await asyncio.to_thread(loop.source.relieve, monotonic() + BEHIND)
    await loop.until(rid)
    assert loop.given() == 1


async def test_a_reply_that_a_full_broker_does_not_take_is_told_when_there_is_room_and_not_asked_for_all_the_time() -> (
    None
):
    with broker("--maxmemory-policy", "noeviction") as full:
        cluster = Cluster(full.url)
        await cluster.start()
        loop = Loop(cluster, full)
        [rid] = loop.put(1)
        await asyncio.to_thread(loop.begin, await loop.get())
        full.cli("CONFIG", "SET", "maxmemory", "1")
        await asyncio.to_thread(loop.source.send, Outcome(rid, last=False))
        now = monotonic()
        assert await asyncio.to_thread(loop.source.relieve, now + BEHIND)
        full.cli("CONFIG", "SET", "maxmemory", "0")
        assert loop.source.relieve(now + BEHIND)  # it has just said no
        assert loop.ended() == []
        assert not await asyncio.to_thread(loop.source.relieve, now + 60)
        await loop.until(rid)
        await cluster.stop()


async def test_what_nobody_waits_for_any_more_is_not_told_again_and_again(loop: Loop) -> None:
    [rid] = loop.put(1, deadline=monotonic() + 60)
    delivery = await loop.get()
    await asyncio.to_thread(loop.begin, delivery)
    [kept] = [loop.source._tell(delivery.inbox, Outcome(rid))]
    loop.source._ended += [Ended(None, kept, monotonic() - 1), Ended(None, kept, monotonic() + 60)]
    assert loop.source._line is not None
    loop.source._line.close()
    assert not await asyncio.to_thread(loop.source._tell_ended)
    assert [one.told for one in loop.source._ended] == [None, kept]
    assert await asyncio.to_thread(loop.source._tell_ended)
    await loop.until(rid)
    assert loop.ended() == [rid]
