"""What lay with a worker that is no more: ended once, or queued once more, whoever finds it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from time import monotonic

import msgspec
import pytest

from offloop.messages import Begun, Outcome, Report, Requeued
from offloop.testing.conformance.suite import envelope
from offloop.transports.parcels import Parcel, parcels
from offloop.transports.redis import reaping, staff
from offloop.transports.redis.dead import DeadLetters
from offloop.transports.redis.names import GROUP, POOL
from offloop.transports.redis.staff import announcement
from tests.support.broker import Broker
from tests.unit.transports.redis.rig import LIMIT, MIB, PRINT, Cluster, RedisDelivery, Worker

DEADLINE = 10.0


class Scene:
    """A cluster with one worker, and all that its web process is told of requests."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.reports: list[Report] = []
        self._came = asyncio.Event()
        self.one = cluster.worker(0)
        self.two = cluster.worker(1)
        cluster.web.subscribe(self._hear)

    def _hear(self, reports: list[Report]) -> None:
        self.reports += [report for report in reports if isinstance(report, Outcome | Requeued)]
        self._came.set()

    async def given(self, worker: Worker, *, begin: bool = True, **fields: object) -> RedisDelivery:
        """A new request, in the hands of that worker."""
        self.cluster.web.put(envelope(reply_to=self.cluster.epoch, **fields), None)
        return await self.taken(worker, begin=begin)

    async def taken(self, worker: Worker, *, begin: bool = True) -> RedisDelivery:
        delivery = await asyncio.to_thread(worker.get, DEADLINE)
        assert delivery is not None, "nothing came"
        assert not begin or delivery.begin()
        return delivery

    def lose(self, worker: Worker) -> None:
        worker.die()
        self.cluster.host.lose(worker)

    async def until(self, *wanted: Report) -> None:
        async with asyncio.timeout(DEADLINE):
            while not all(report in self.reports for report in wanted):
                self._came.clear()
                await self._came.wait()


@pytest.fixture
async def scene(redis: Broker) -> AsyncIterator[Scene]:
    cluster = Cluster(redis.url)
    await cluster.start()
    yield Scene(cluster)
    await cluster.stop()


async def test_what_may_begin_once_is_lost(scene: Scene, redis: Broker) -> None:
    rid = (await scene.given(scene.one)).envelope.rid
    scene.lose(scene.one)
    await scene.until(Outcome(rid, "worker-lost", started=True))
    redis.until(lambda length: length == 0, "XLEN", scene.cluster.names.requests(POOL))


async def test_what_may_begin_again_does_so_up_to_its_cap_and_is_kept_for_people_then(
    scene: Scene, redis: Broker
) -> None:
    delivery = await scene.given(scene.one, endpoint="again")
    rid = delivery.envelope.rid
    for attempt, worker in ((2, scene.two), (3, scene.cluster.worker(2))):
        holder = scene.one if attempt == 2 else scene.two
        scene.lose(holder)
        delivery = await scene.taken(worker)
        assert (delivery.envelope.rid, delivery.envelope.attempt) == (rid, attempt)
        await scene.until(Requeued(rid, attempt))
        last = worker
    scene.lose(last)
    await scene.until(Outcome(rid, "worker-lost", attempt=3, started=True))
    redis.until(lambda length: length == 0, "XLEN", scene.cluster.names.requests(POOL))
    assert redis.cli("XLEN", scene.cluster.names.dead(POOL)) == 1


async def test_what_was_streamed_is_not_begun_again(scene: Scene) -> None:
    rid = (await scene.given(scene.one, endpoint="again", stream=True)).envelope.rid
    scene.lose(scene.one)
    await scene.until(Outcome(rid, "worker-lost", started=True))


async def test_all_that_a_worker_had_is_taken_over_however_much_it_is(scene: Scene) -> None:
    rids = [(await scene.given(scene.one)).envelope.rid for _ in range(40)]
    scene.lose(scene.one)
    await scene.until(*(Outcome(rid, "worker-lost", started=True) for rid in rids))
    assert len(scene.reports) == len(rids)


async def test_two_who_look_at_once_end_it_once(scene: Scene, redis: Broker) -> None:
    other = Cluster(redis.url, namespace=scene.cluster.names.namespace)
    await other.start()
    rid = (await scene.given(scene.one, endpoint="again")).envelope.rid
    scene.one.die()
    consumers = scene.one.consumers()
    scene.cluster.host.workers.pop(scene.one.name)
    scene.cluster.host.reaper.take_over(consumers, scene.cluster.host.link.ask_together)
    other.host.reaper.take_over(consumers, other.host.link.ask_together)
    assert (await scene.taken(scene.two)).envelope.attempt == 2
    await scene.until(Requeued(rid, 2))
    assert redis.cli("XLEN", scene.cluster.names.requests(POOL)) == 1
    await other.stop()


async def test_whoever_takes_less_ends_what_is_larger_all_the_same(scene: Scene, redis: Broker) -> None:
    """As a web process of an earlier version, during a deployment."""
    other = Cluster(redis.url, namespace=scene.cluster.names.namespace, max_body=1000)
    await other.start()
    rid = (await scene.given(scene.one, payload=bytes(2 * MIB))).envelope.rid
    scene.one.die()
    scene.cluster.host.workers.pop(scene.one.name)
    other.web._reapers[0].take_over(scene.one.consumers(), other.host.link.ask_together)
    await scene.until(Outcome(rid, "worker-lost", started=True))
    await other.stop()


async def test_what_has_ended_by_itself_is_nobodys_loss(scene: Scene, redis: Broker) -> None:
    delivery = await scene.given(scene.one)
    scene.one.send(Outcome(delivery.envelope.rid, payload=b"1"))
    scene.lose(scene.one)
    await scene.until(Outcome(delivery.envelope.rid, payload=b"1"))
    redis.until(lambda length: length == 0, "XLEN", scene.cluster.names.requests(POOL))
    assert len(scene.reports) == 1


async def test_a_lease_that_nobody_renews_ends(scene: Scene) -> None:
    rid = (await scene.given(scene.one)).envelope.rid
    scene.cluster.host.renews = False  # its supervisor hangs, or has gone with it, and with the evidence
    await scene.until(Outcome(rid, "worker-lost", started=None))


async def test_a_beginning_that_was_told_is_known_though_the_evidence_is_gone(scene: Scene) -> None:
    delivery = await scene.given(scene.one)
    rid = delivery.envelope.rid
    scene.one.send(Begun(rid, 1, scene.one.name, monotonic()))  # of an endpoint that nothing is known of: told at once
    scene.cluster.host.renews = False
    await scene.until(Outcome(rid, "worker-lost", started=True))


async def test_loops_of_a_lost_host_and_its_announcement_are_forgotten(
    scene: Scene, redis: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the supervisor nobody is left who would say that they leave."""
    for module in (reaping, staff):
        monkeypatch.setattr(module, "FORGOTTEN", 0.2)
    stream, workers = scene.cluster.names.requests(POOL), scene.cluster.names.workers(POOL)
    redis.cli("HSET", workers, scene.one.name, announcement(0.0, 1, 0))
    await scene.given(scene.one)
    scene.cluster.host.renews = False
    consumers = "XINFO", "CONSUMERS", stream, GROUP
    assert scene.one.name.encode() in redis.cli(*consumers)[0][1]
    await asyncio.to_thread(redis.until, lambda found: all(each[1].startswith(b"reaper") for each in found), *consumers)
    await asyncio.to_thread(redis.until, lambda found: not found, "HGETALL", workers)


@pytest.fixture
def letters(scene: Scene) -> Iterator[DeadLetters]:
    letters = DeadLetters(scene.cluster.address, scene.cluster.names, POOL, ())
    yield letters
    letters.close()


async def replayed(scene: Scene, letters: DeadLetters, timeout: float) -> None:
    """A dead letter that is sent again."""
    sent = Parcel(1.0, PRINT, True, envelope(b"of the letter", endpoint="again", attempt=3))
    written = parcels((), LIMIT).write(scene.cluster.names.requests(POOL), sent)
    await asyncio.to_thread(letters._ask, "XADD", scene.cluster.names.dead(POOL), "*", *written)
    [letter] = await asyncio.to_thread(lambda: list(letters.all()))
    assert await asyncio.to_thread(letters.replay, letter, timeout)
    assert await asyncio.to_thread(lambda: list(letters.all())) == []


async def one_again(letters: DeadLetters, redis: Broker, scene: Scene) -> None:
    """It is there, and nowhere else."""
    await asyncio.to_thread(redis.until, lambda length: length == 0, "XLEN", scene.cluster.names.requests(POOL))
    [letter] = await asyncio.to_thread(lambda: list(letters.all()))
    assert letter.parcel is not None
    assert letter.parcel.envelope.payload == b"of the letter"


async def test_a_dead_letter_that_no_worker_takes_in_time_is_one_again(
    scene: Scene, letters: DeadLetters, redis: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    await replayed(scene, letters, -1.0)
    source = scene.one.source()
    assert await asyncio.to_thread(source.get, DEADLINE) is None
    await asyncio.to_thread(source._let_others)
    await one_again(letters, redis, scene)
    assert "it is one again" in caplog.text


async def test_a_dead_letter_that_is_too_late_once_it_was_taken_is_one_again(
    scene: Scene, letters: DeadLetters, redis: Broker
) -> None:
    await replayed(scene, letters, 60.0)
    source = scene.one.source()
    delivery = await asyncio.to_thread(source.get, DEADLINE)
    assert delivery is not None
    delivery.envelope = msgspec.structs.replace(delivery.envelope, deadline=0.0)
    source.stop()
    assert await asyncio.to_thread(source.get, DEADLINE) is None
    await one_again(letters, redis, scene)


async def test_a_dead_letter_that_was_taken_by_who_is_lost_and_is_too_late_is_one_again(
    scene: Scene, letters: DeadLetters, redis: Broker
) -> None:
    await replayed(scene, letters, 60.0)
    await scene.taken(scene.one)
    reaper = scene.cluster.host.reaper
    now = reaper._broker_now
    reaper._broker_now = lambda: now() + 100
    scene.lose(scene.one)
    await one_again(letters, redis, scene)


async def test_what_had_not_begun_goes_to_another_whatever_it_is(scene: Scene) -> None:
    begun = await scene.given(scene.one)
    rids = [(await scene.given(scene.one, begin=False)).envelope.rid for _ in range(2)]
    scene.lose(scene.one)
    await scene.until(Outcome(begun.envelope.rid, "worker-lost", started=True), *(Requeued(rid, 1) for rid in rids))
    assert len(scene.reports) == 3
    again = [(await scene.taken(scene.two)).envelope for _ in rids]
    assert [(envelope.rid, envelope.attempt) for envelope in again] == [(rid, 1) for rid in rids]


async def test_a_lease_that_is_renewed_does_not_end_and_one_that_has_ended_begins_nothing(scene: Scene) -> None:
    kept, host = await scene.given(scene.one, endpoint="again", begin=False), scene.cluster.host
    other = await scene.given(scene.two, endpoint="again", begin=False)
    del host.workers[scene.two.name]  # this one's is not renewed
    await scene.until(Requeued(other.envelope.rid, 2))
    assert scene.reports == [Requeued(other.envelope.rid, 2)]
    assert not await asyncio.to_thread(other.begin)
    assert await asyncio.to_thread(kept.begin)
    host.workers[scene.two.name] = scene.two
