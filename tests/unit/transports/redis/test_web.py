"""The web process' end: what the broker has judged is told, and what it cannot judge is refused at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from offloop.clock import monotonic
from offloop.messages import Begun, Chunk, Linked, Outcome, Refused, Report, Requeued, Staffed, Taken, Withdrawn
from offloop.testing.conformance.suite import envelope
from offloop.transports.redis.names import POOL
from offloop.transports.redis.staff import announcement
from tests.support.broker import Broker, broker
from tests.unit.transports.redis.rig import LIMIT, MIB, Cluster, RedisDelivery, Worker

DEADLINE = 10.0


class Told:
    """All that one web process is told."""

    def __init__(self, cluster: Cluster) -> None:
        self.reports: list[Report] = []
        self._came = asyncio.Event()
        cluster.web.subscribe(self._hear)

    def _hear(self, reports: Sequence[Report]) -> None:
        self.reports += reports
        self._came.set()

    async def until(self, enough: Callable[[list[Report]], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not enough(self.reports):
                self._came.clear()
                await self._came.wait()

    async def has(self, *wanted: Report) -> None:
        await self.until(lambda reports: all(report in reports for report in wanted))


async def taken(worker: Worker) -> RedisDelivery:
    delivery = await asyncio.to_thread(worker.get, DEADLINE)
    assert delivery is not None, "nothing came"
    return delivery


@pytest.fixture
async def cluster(redis: Broker) -> AsyncIterator[Cluster]:
    cluster = Cluster(redis.url, bound=2)
    await cluster.start()
    yield cluster
    await cluster.stop()


async def test_what_is_put_together_is_judged_together_and_in_order(cluster: Cluster) -> None:
    told = Told(cluster)
    sent = [envelope(reply_to=cluster.epoch) for _ in range(3)]
    for each in sent:
        cluster.web.put(each, None)
    first, second, third = (each.rid for each in sent)
    await told.has(Taken(first), Taken(second), Refused(third, "queue-full"))
    worker = cluster.worker(0)
    assert [(await taken(worker)).envelope.rid for _ in range(2)] == [first, second]


@pytest.mark.parametrize("name", ["x" * (LIMIT + 2 * MIB), "r\udce9sum\udce9.pdf"], ids=["long", "no UTF-8"])
async def test_what_cannot_be_written_is_refused_and_whatever_goes_out_with_it_is_not(
    cluster: Cluster, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(cluster)
    one, bad, two = (envelope(reply_to=cluster.epoch, filename=named) for named in ("a", name, "b"))
    for each in (one, bad, two):
        cluster.web.put(each, None)
    assert told.reports == []  # whoever puts is not called from within
    await told.has(Taken(one.rid), Refused(bad.rid, "payload-too-large"), Taken(two.rid))
    assert "cannot be sent" in caplog.text
    worker = cluster.worker(0)
    assert [(await taken(worker)).envelope.rid for _ in range(2)] == [one.rid, two.rid]
    assert set(cluster.web._sent) == {one.rid, two.rid}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("r1", "too-long", bytes(LIMIT + 1), status=422),
        Outcome("r1", payload=b"1", filename="r\udce9sum\udce9.pdf"),
        Outcome("r1", payload=b"1", media_type="x" * (LIMIT + 2 * MIB)),
    ],
    ids=["too large", "no UTF-8", "labels without measure"],
)
async def test_an_outcome_that_cannot_be_sent_becomes_one_that_says_so(cluster: Cluster, outcome: Outcome) -> None:
    told, worker = Told(cluster), cluster.worker(0)
    cluster.web.put(envelope(rid="r1", reply_to=cluster.epoch), None)
    assert (await taken(worker)).begin()
    await asyncio.to_thread(worker.send, outcome)
    await told.has(Outcome("r1", "node-failed"))


async def test_a_traceback_may_hold_anything(cluster: Cluster) -> None:
    told, worker = Told(cluster), cluster.worker(0)
    cluster.web.put(envelope(rid="r1", reply_to=cluster.epoch), None)
    assert (await taken(worker)).begin()
    await asyncio.to_thread(worker.send, Outcome("r1", "node-failed", debug="no file \udcff"))
    await told.has(Outcome("r1", "node-failed", debug="no file ?"))


async def test_what_is_too_large_for_one_version_goes_to_another(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    told, sent = Told(cluster), envelope(bytes(2 * MIB), reply_to=cluster.epoch)
    old, new = cluster.worker(0, endpoints=(), max_body=1000), cluster.worker(1)
    cluster.web.put(sent, None)
    assert await asyncio.to_thread(old.source().get, DEADLINE) is None
    await told.has(Requeued(sent.rid, 1))
    assert (await taken(new)).envelope.rid == sent.rid
    assert not caplog.records


async def test_what_is_too_large_for_its_own_version_is_refused(
    cluster: Cluster, redis: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.web.put(envelope(bytes(2 * MIB), reply_to=cluster.epoch), None)
    source = cluster.worker(0, max_body=1000).source()
    assert await asyncio.to_thread(source.get, DEADLINE) is None
    await asyncio.to_thread(source._let_others)
    assert redis.cli("XLEN", cluster.names.requests(POOL)) == 0
    assert "it is larger than" in caplog.text


async def test_two_web_processes_share_the_bound_and_each_gets_its_own_replies(cluster: Cluster, redis: Broker) -> None:
    other = Cluster(redis.url, bound=2, namespace=cluster.names.namespace)
    await other.start()
    one, two = Told(cluster), Told(other)
    mine, theirs, full = (envelope(reply_to=each.epoch) for each in (cluster, other, other))
    cluster.web.put(mine, None)
    await one.has(Taken(mine.rid))
    other.web.put(theirs, None)
    other.web.put(full, None)
    await two.has(Taken(theirs.rid), Refused(full.rid, "queue-full"))
    worker = cluster.worker(0)
    for _ in range(2):
        delivery = await taken(worker)
        await asyncio.to_thread(worker.send, Outcome(delivery.envelope.rid))
    await one.has(Outcome(mine.rid))
    await two.has(Outcome(theirs.rid))
    assert Outcome(theirs.rid) not in one.reports
    await other.stop()


async def test_what_was_not_sent_yet_is_taken_back_at_once(cluster: Cluster, redis: Broker) -> None:
    sent = envelope(reply_to=cluster.epoch)
    cluster.web.put(sent, None)
    assert cluster.web.withdraw(sent.rid) is True
    await asyncio.sleep(0)
    assert redis.cli("XLEN", cluster.names.requests(POOL)) == 0


async def test_what_is_taken_back_before_the_broker_has_named_it_is_taken_back_then(
    cluster: Cluster, redis: Broker
) -> None:
    told, sent = Told(cluster), envelope(reply_to=cluster.epoch)
    cluster.web.put(sent, None)
    await asyncio.sleep(0)  # it is on its way
    assert cluster.web.withdraw(sent.rid) is None
    await told.has(Taken(sent.rid), Withdrawn(sent.rid, begun=False))
    assert redis.cli("XLEN", cluster.names.requests(POOL)) == 0


async def test_a_stream_with_a_hole_ends_as_lost(cluster: Cluster) -> None:
    told, worker = Told(cluster), cluster.worker(0)
    sent = envelope(rid="r1", reply_to=cluster.epoch, stream=True)
    cluster.web.put(sent, None)
    assert (await taken(worker)).begin()
    source = worker._busy["r1", 1]
    source.send(Begun("r1", 1, worker.name, monotonic()))
    source.send(Chunk("r1", 1, 1, b"1"))
    assert source._whole()
    source._drop()  # the connection is lost, and nobody can say what with it
    source.send(Chunk("r1", 1, 2, b"2"))
    await asyncio.to_thread(worker.send, Outcome("r1", payload=b"all of it"))
    await told.has(Chunk("r1", 1, 1, b"1"), Outcome("r1", "worker-lost"))


async def test_a_start_that_waits_for_workers_goes_on_when_one_is_seen_or_time_is_up(
    cluster: Cluster, redis: Broker
) -> None:
    told = Told(cluster)
    await cluster.web.staffed(0.05)
    assert not any(isinstance(report, Staffed) and report.workers for report in told.reports)
    waits = asyncio.ensure_future(cluster.web.staffed(DEADLINE))
    now = int(redis.cli("TIME")[0])
    redis.cli("HSET", cluster.names.workers(POOL), "host/one", announcement(now + 5, 2, 1))
    async with asyncio.timeout(DEADLINE / 2):
        await waits
    assert Staffed({"host/one": (2, 1)}, frozenset({POOL})) in told.reports


async def test_of_every_pool_it_is_known_whether_somebody_is_there(redis: Broker) -> None:
    cluster = Cluster(redis.url, pools={"read": "gpu"})
    await cluster.start()
    told, now = Told(cluster), int(redis.cli("TIME")[0])
    redis.cli("HSET", cluster.names.workers(POOL), "host/one", announcement(now + 60, 2, 1))
    await told.has(Staffed({"host/one": (2, 1)}, frozenset({POOL})))
    redis.cli("HSET", cluster.names.workers("gpu"), "host/two", announcement(now + 60, 1, 0))
    await told.has(Staffed({"host/one": (2, 1), "host/two": (1, 0)}, frozenset({POOL, "gpu"})))
    await cluster.stop()


async def test_who_was_killed_long_ago_is_taken_out_of_the_list(cluster: Cluster, redis: Broker) -> None:
    key, now = cluster.names.workers(POOL), int(redis.cli("TIME")[0])
    redis.cli("HSET", key, "host/old", announcement(now - 100, 2, 1), "host/late", announcement(now - 5, 2, 1))
    await cluster.web.staffed(0.05)
    await asyncio.to_thread(redis.until, lambda names: names == [b"host/late"], "HKEYS", key)


async def test_without_a_broker_what_is_put_is_refused_and_what_waits_is_kept() -> None:
    with broker() as server:
        cluster = Cluster(server.url)
        await cluster.start()
        told, waits, refused = Told(cluster), envelope(reply_to=cluster.epoch), envelope(reply_to=cluster.epoch)
        cluster.web.put(waits, None)
        await told.has(Taken(waits.rid))
        await asyncio.to_thread(server.stop)
        await told.has(Linked(False))
        cluster.web.put(refused, None)
        await told.has(Refused(refused.rid, "backend-unavailable"))
        assert not any(isinstance(report, Refused) and report.rid == waits.rid for report in told.reports)
        await asyncio.to_thread(server.start)
        await told.has(Linked(True))
        again = envelope(reply_to=cluster.epoch)
        cluster.web.put(again, None)
        worker = cluster.worker(0)
        delivery = await taken(worker)
        await asyncio.to_thread(worker.send, Outcome(delivery.envelope.rid))
        await told.has(Outcome(again.rid))
        await cluster.stop()


async def test_what_a_broker_did_not_answer_before_it_hung_is_known_to_be_unknown() -> None:
    with broker() as server:
        cluster = Cluster(server.url)
        await cluster.start()
        told, before, after = Told(cluster), envelope(reply_to=cluster.epoch), envelope(reply_to=cluster.epoch)
        server.pause()
        for each in (before, after):
            cluster.web.put(each, None)
        await asyncio.sleep(0)  # they are on their way
        assert cluster.web.withdraw(before.rid) is None
        await told.has(Linked(False), Withdrawn(before.rid, begun=None))
        assert Withdrawn(after.rid, begun=None) not in told.reports
        assert cluster.web.withdraw(after.rid) is None
        await told.has(Withdrawn(after.rid, begun=None))
        server.resume()
        await told.has(Linked(True))
        await cluster.stop()


async def test_a_broker_that_is_full_refuses_and_is_not_waited_for() -> None:
    with broker("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        cluster = Cluster(server.url)
        await cluster.start()
        told = Told(cluster)
        for number in range(40):
            cluster.web.put(envelope(bytes(2**17), rid=f"r{number}", reply_to=cluster.epoch), None)
            await asyncio.sleep(0)
        await told.until(lambda reports: any(isinstance(report, Refused) for report in reports))
        reasons = {report.reason for report in told.reports if isinstance(report, Refused)}
        assert reasons == {"backend-unavailable"}
        await cluster.stop()
