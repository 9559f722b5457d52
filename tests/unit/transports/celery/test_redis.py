"""Both ends over a real Redis: who begins and who takes back, what is pushed and when it is known, whose time it is."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic, time
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from offloop.errors import SettingsError
from offloop.messages import Begun, Chunk, Envelope, Outcome, Requeued, Taken, Withdrawn
from offloop.transports.celery.broker import broker_at
from offloop.transports.celery.ends import TooLarge
from offloop.transports.celery.letters import UNTIL, Letters
from offloop.transports.celery.redis import RedisBroker, RedisWorkerEnd, message_of
from offloop.transports.celery.worker import CeleryDelivery, Desk
from offloop.transports.parcels import OVERHEAD, Cancel, Grant, Parcel, orders, parcels, returns
from offloop.transports.redis.staff import announcement
from offloop.transports.redis.wire import Line, address_of
from tests.support.broker import Broker, broker
from tests.unit.transports.celery.rig import LIMIT, Cluster, Told, begun, said, sent

EPOCH = "abc"
RID = f"{EPOCH}-1-def"


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with broker() as server:
        yield server


class WorkerSide:
    """Ends of one place, whose connections are closed at the end, and the inbox of a web process."""

    def __init__(self, redis: Broker, keys: tuple[str, ...] = ()) -> None:
        self.broker = redis
        self.keys = keys
        self.place = RedisBroker(redis.url, f"test-{uuid4().hex[:8]}")
        self.inbox = self.place.names.inbox(EPOCH)
        self._lines: list[Line] = []

    def end(self, name: str = "worker-0") -> RedisWorkerEnd:
        lines = self._lines

        class Closing(RedisWorkerEnd):
            def _line(self) -> Line:
                line = super()._line()
                if line not in lines:
                    lines.append(line)
                return line

        return Closing(self.place, name, returns(self.keys, LIMIT), self.keys, monotonic)

    def open_inbox(self) -> None:
        self.broker.cli("XGROUP", "CREATE", self.inbox, "owner", "$", "MKSTREAM")

    def came(self) -> list[Any]:
        """What lies in the inbox."""
        read = returns(self.keys, LIMIT).read
        return [read(self.inbox, fields) for _, fields in self.broker.cli("XRANGE", self.inbox, "-", "+")]

    def close(self) -> None:
        for line in self._lines:
            line.close()


@pytest.fixture
def side(redis: Broker) -> Iterator[WorkerSide]:
    side = WorkerSide(redis)
    side.open_inbox()
    yield side
    side.close()


def begins(
    end: RedisWorkerEnd,
    rid: str = RID,
    *,
    left: float = 10.0,
    attempt: int = 1,
    name: str = "worker-0",
    again: bool = True,
) -> str:
    envelope = Envelope(rid=rid, endpoint="read", payload=b"", deadline=0.0, attempt=attempt)
    parcel = Parcel(end.broker_time(monotonic()) + left, "print", again, envelope)
    return end.begin(parcel, Begun(rid, attempt, name, 1.0))


@pytest.fixture
def end(side: WorkerSide) -> RedisWorkerEnd:
    end = side.end()
    end.local_time(0.0)  # it reads the clock, as it does for every message
    return end


# ---- beginning


def test_what_begins_is_told_before_it_does_and_once(side: WorkerSide, end: RedisWorkerEnd) -> None:
    assert begins(end) == ""
    assert side.came() == [begun(RID, at=1.0)]
    assert begins(end) == "begun before"
    other = side.end("worker-1")
    other.local_time(0.0)
    assert begins(other, name="worker-1") == "begun before"
    assert begins(other, attempt=2, name="worker-1") == ""
    assert len(side.came()) == 2


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_of_what_may_begin_once_one_attempt_does_whichever_comes_first(
    side: WorkerSide, end: RedisWorkerEnd, first: int, second: int
) -> None:
    """A process that was taken for dead may hold the one while another is given the other."""
    other = side.end("worker-1")
    other.local_time(0.0)
    assert begins(end, attempt=first, again=False) == ""
    assert begins(other, attempt=second, name="worker-1", again=False) == "begun before"
    assert len(side.came()) == 1


def test_what_is_late_or_for_nobody_does_not_begin(side: WorkerSide, end: RedisWorkerEnd) -> None:
    assert begins(end, left=-0.001) == "late"
    assert begins(end, "other-1-def") == "nobody waits"
    assert side.came() == []
    assert side.broker.keys(f"{side.place.names.namespace}:begun:*") == []


def test_it_is_remembered_for_some_seconds_after_the_deadline(side: WorkerSide, end: RedisWorkerEnd) -> None:
    assert begins(end, left=10.0) == ""
    (key,) = side.broker.keys(f"{side.place.names.namespace}:begun:*")
    assert 14_000 < side.broker.cli("PTTL", key) <= 15_100


def test_racing_workers_begin_it_once(side: WorkerSide) -> None:
    ends = [side.end(f"worker-{number}") for number in range(6)]
    for number in range(30):
        rid, together, why = f"{EPOCH}-{number}-x", threading.Barrier(6), list[str]()

        def begin(end: RedisWorkerEnd, rid: str = rid, together: Any = together, why: list[str] = why) -> None:
            end.local_time(0.0)
            together.wait(10)
            why.append(begins(end, rid))

        threads = [threading.Thread(target=begin, args=(end,)) for end in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(why) == [""] + ["begun before"] * 5
    assert len(side.came()) == 30


def test_a_beginning_whose_answer_was_lost_is_asked_for_again(side: WorkerSide, end: RedisWorkerEnd) -> None:
    begins(end, f"{EPOCH}-0-x")
    side.broker.cli("CLIENT", "KILL", "TYPE", "normal")
    assert begins(end) == ""
    assert [report.rid for report in side.came()] == [f"{EPOCH}-0-x", RID]


def test_a_second_copy_in_the_same_process_does_not_pass_for_a_lost_answer(
    side: WorkerSide, end: RedisWorkerEnd
) -> None:
    """Its connection breaks before it asks: what another thread of the same process has begun stays that one's."""
    why: list[str] = []

    def other_thread(first: threading.Event, go_on: threading.Event) -> None:
        begins(end, f"{EPOCH}-0-x")  # it has a connection of its own now
        first.set()
        assert go_on.wait(10)
        why.append(begins(end))

    first, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=other_thread, args=(first, go_on))
    thread.start()
    assert first.wait(10)
    assert begins(end) == ""
    side.broker.cli("CLIENT", "KILL", "TYPE", "normal")
    go_on.set()
    thread.join(10)
    assert why == ["begun before"]


def test_a_copy_of_what_runs_is_not_opened_and_does_not_keep_orders_from_it(
    side: WorkerSide, end: RedisWorkerEnd
) -> None:
    seal, queue = parcels((), LIMIT), "ns"
    desk = Desk("worker-0", {"read": "print"}, {queue}, seal, end, monotonic)
    envelope = Envelope(rid=RID, endpoint="read", payload=b"", deadline=0.0)
    written = seal.write(queue, Parcel(end.broker_time(monotonic()) + 10.0, "print", False, envelope))
    fields = [each.encode() if isinstance(each, str) else each for each in written]
    seen: list[bool] = []

    def handle(delivery: CeleryDelivery) -> None:
        assert delivery.begin()
        copy = desk.open(fields, queue, redelivered=True)
        if copy is not None:
            desk.run(copy, CeleryDelivery.begin)
        desk.obey(Cancel("worker-0", RID))
        seen.append(delivery.cancelled)

    first = desk.open(fields, queue, redelivered=False)
    assert first is not None
    desk.run(first, handle)
    assert seen == [True]


@pytest.mark.parametrize(("version", "told"), [("later", [Requeued(RID, 1)]), ("print", [])])
def test_what_is_too_large_here_is_handed_on_if_it_is_for_another_version(
    side: WorkerSide, end: RedisWorkerEnd, version: str, told: list[Any]
) -> None:
    queue = "ns"
    desk = Desk("worker-0", {"read": "print"}, {queue}, parcels((), 10), end, monotonic)
    envelope = Envelope(rid=RID, endpoint="read", payload=b"x" * (OVERHEAD + 11), deadline=0.0)
    parcel = Parcel(end.broker_time(monotonic()) + 10.0, version, False, envelope)
    written = parcels((), LIMIT).write(queue, parcel)
    fields = [each if isinstance(each, bytes) else each.encode() for each in written]
    assert desk.open(fields, queue, redelivered=False) is None
    assert side.came() == told


def test_a_connection_that_broke_before_a_stream_began_is_nothing_to_it(side: WorkerSide, end: RedisWorkerEnd) -> None:
    seal, queue = parcels((), LIMIT), "ns"
    desk = Desk("worker-0", {"read": "print"}, {queue}, seal, end, monotonic)
    end.tell(RID, Outcome("another"), heard=True)
    side.broker.cli("CLIENT", "KILL", "TYPE", "normal")
    end.tell(RID, Outcome("another"), heard=True)  # over a new one
    envelope = Envelope(rid=RID, endpoint="read", payload=b"", deadline=0.0, stream=True)
    written = seal.write(queue, Parcel(end.broker_time(monotonic()) + 10.0, "print", False, envelope))
    delivery = desk.open(
        [each if isinstance(each, bytes) else each.encode() for each in written], queue, redelivered=False
    )
    assert delivery is not None

    def handle(mine: CeleryDelivery) -> None:
        assert mine.begin()
        desk.send(Chunk(RID, 1, 1, b"1"))
        desk.send(Outcome(RID, payload=b"reply"))

    desk.run(delivery, handle)
    assert side.came()[-1] == Outcome(RID, payload=b"reply")


def test_a_reply_that_the_broker_takes_not_is_told_as_a_failure(
    side: WorkerSide, end: RedisWorkerEnd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tell = end.tell

    def limited(rid: str, report: Any, *, heard: bool) -> None:
        if len(report.payload) > 10:
            raise TooLarge("so much and no more")
        tell(rid, report, heard=heard)

    monkeypatch.setattr(end, "tell", limited)
    desk = Desk("worker-0", {"read": "print"}, {"ns"}, parcels((), LIMIT), end, monotonic)
    desk.send(Outcome(RID, payload=b"a long reply", media_type="text/plain"))
    assert side.came() == [Outcome(RID, "node-failed")]
    assert "an outcome (ok) cannot be sent: the broker takes nothing so large: so much and no more" in caplog.text


def test_an_outcome_that_nobody_could_read_is_told_as_a_failure(side: WorkerSide, end: RedisWorkerEnd) -> None:
    desk = Desk("worker-0", {"read": "print"}, {"ns"}, parcels((), LIMIT), end, monotonic)
    desk.send(Outcome(RID, "encrypted", b"x" * (LIMIT + OVERHEAD), status=422))
    desk.send(Outcome(RID, "node-failed", debug="a name of no letters: \udcff"))
    assert side.came() == [Outcome(RID, "node-failed"), Outcome(RID, "node-failed", debug="a name of no letters: ?")]


def test_scripts_that_were_forgotten_are_told_again(side: WorkerSide, end: RedisWorkerEnd) -> None:
    begins(end, f"{EPOCH}-0-x")
    side.broker.cli("SCRIPT", "FLUSH")
    assert begins(end) == ""


def test_a_broker_that_is_gone_is_told_as_an_os_error() -> None:
    with broker() as own:
        side = WorkerSide(own)
        side.open_inbox()
        end = side.end()
        end.local_time(0.0)
        own.stop()
        with pytest.raises(OSError, match="."):
            begins(end, left=0.2)
        with pytest.raises(OSError, match="."):
            end.tell(RID, Outcome(RID), heard=True)
        with pytest.raises(OSError, match="."):
            end.announce(["ns"], 1, 0)
        side.close()


# ---- told


@pytest.mark.parametrize("keys", [(), ("a key",)])
def test_reports_arrive_whole_and_in_order(redis: Broker, keys: tuple[str, ...]) -> None:
    side = WorkerSide(redis, keys)
    side.open_inbox()
    end = side.end()
    told = [Chunk(RID, 1, number, bytes([number])) for number in range(1, 50)]
    for chunk in told:
        end.tell(RID, chunk, heard=False)
    end.tell(RID, Outcome(RID, payload=bytes(2**20)), heard=True)
    assert side.came() == [*told, Outcome(RID, payload=bytes(2**20))]
    assert end.settled()
    side.close()


def test_whether_what_was_told_unheard_has_arrived_is_known(side: WorkerSide, end: RedisWorkerEnd) -> None:
    assert end.settled()
    end.tell(RID, Chunk(RID, 1, 1, b"1"), heard=False)
    assert end.settled()
    side.broker.cli("DEL", side.inbox)
    end.tell(RID, Chunk(RID, 1, 2, b"2"), heard=False)
    assert not end.settled()  # nobody's inbox took it
    assert end.settled()
    end.tell(RID, Chunk(RID, 1, 3, b"3"), heard=False)
    side.broker.cli("CLIENT", "KILL", "TYPE", "normal")
    assert not end.settled()


def test_an_end_is_told_over_a_new_connection_where_the_old_one_broke(side: WorkerSide, end: RedisWorkerEnd) -> None:
    end.tell(RID, Outcome(RID), heard=True)
    side.broker.cli("CLIENT", "KILL", "TYPE", "normal")
    end.tell(RID, Outcome(RID, attempt=2), heard=True)
    assert side.came() == [Outcome(RID), Outcome(RID, attempt=2)]


def test_nothing_is_made_for_a_web_process_that_is_gone(side: WorkerSide, end: RedisWorkerEnd) -> None:
    side.broker.cli("DEL", side.inbox)
    end.tell(RID, Outcome(RID), heard=True)
    assert side.broker.cli("EXISTS", side.inbox) == 0


# ---- time


def test_a_deadline_is_never_put_off(side: WorkerSide, end: RedisWorkerEnd) -> None:
    for _ in range(20):
        seconds, micros = side.broker.cli("TIME")
        at = int(seconds) + int(micros) / 1e6 + 5.0
        local = end.local_time(at)
        assert local <= monotonic() + 5.0
        assert local > monotonic() + 5.0 - 0.5
    assert end.broker_time(0.0) == 0.0
    assert abs(end.broker_time(monotonic()) - time()) < 0.5


# ---- orders


def test_orders_are_heard_and_those_of_others_are_not(redis: Broker) -> None:
    side = WorkerSide(redis, ("a key",))
    end = side.end("worker-0")
    heard: list[Any] = []
    came = threading.Event()

    def listen() -> None:
        for order in end.orders():
            heard.append(order)
            came.set()

    thread = threading.Thread(target=listen)
    thread.start()
    stream = side.place.names.orders("worker-0")
    redis.until(lambda exists: exists == 1, "EXISTS", stream)
    assert 0 < redis.until(lambda left: left > 0, "PTTL", stream) <= 60_000
    good, forged = orders(("a key",)), orders(("guess",))
    redis.cli("XADD", stream, "*", *forged.write(stream, Cancel("worker-0", RID)))
    redis.cli("XADD", stream, "*", *good.write(stream, Grant("worker-0", RID, 5)))
    assert came.wait(10)
    assert heard == [Grant("worker-0", RID, 5)]
    came.clear()
    redis.cli("DEL", stream)
    redis.until(lambda exists: exists == 1, "EXISTS", stream)  # whoever listens makes it again
    redis.cli("XADD", stream, "*", *good.write(stream, Cancel("worker-0", RID)))
    assert came.wait(10)
    came.clear()
    redis.cli("CLIENT", "KILL", "TYPE", "normal")
    redis.cli("XADD", stream, "*", *good.write(stream, Cancel("worker-0", "another")))
    assert came.wait(10)
    assert heard[1:] == [Cancel("worker-0", RID), Cancel("worker-0", "another")]
    end.close()
    thread.join(10)
    assert not thread.is_alive()
    redis.until(lambda exists: exists == 0, "EXISTS", stream)
    side.close()


# ---- the web side


@pytest.fixture
async def cluster(redis: Broker) -> AsyncIterator[Cluster]:
    cluster = Cluster(redis.url, epoch=EPOCH)
    await cluster.start()
    yield cluster
    await cluster.stop()


async def until(true: Callable[[], object]) -> None:
    pause = threading.Event()
    async with asyncio.timeout(10):
        while not true():
            await asyncio.to_thread(pause.wait, 0.005)


async def test_who_was_killed_long_ago_is_taken_out_of_the_list(cluster: Cluster, redis: Broker) -> None:
    key, now = cluster.place.names.workers(cluster.place.names.namespace), int(redis.cli("TIME")[0])
    redis.cli("HSET", key, "old", announcement(now - 100, 2, 1), "late", announcement(now - 5, 2, 1))
    await cluster.web.staffed(0.05)
    await asyncio.to_thread(redis.until, lambda names: names == [b"late"], "HKEYS", key)


def test_what_is_announced_ends_by_itself(side: WorkerSide, end: RedisWorkerEnd) -> None:
    end.announce(["ns"], 2, 0)
    key = side.place.names.workers("ns")
    assert 0 < side.broker.cli("PTTL", key) <= 63_000
    end.depart(["ns"])
    assert side.broker.cli("EXISTS", key) == 0


async def test_messages_lie_where_kombu_takes_them_in_order(cluster: Cluster, redis: Broker) -> None:
    told = Told(cluster.web)
    for number in range(3):
        cluster.web.put(sent(f"{EPOCH}-{number}-x"), None)
    await told.has(*(Taken(f"{EPOCH}-{number}-x") for number in range(3)))
    queue, seen = cluster.place.names.namespace, list[str]()
    app = Celery(broker=redis.url, set_as_current=False)

    def take() -> None:
        with app.connection_for_read() as connection:
            simple = connection.SimpleQueue(queue, no_ack=True)
            for _ in range(3):
                message = simple.get(timeout=10)
                seen.append(message.headers["id"])
                assert message.delivery_info["routing_key"] == queue
            simple.close()

    await asyncio.to_thread(take)
    assert seen == [f"{EPOCH}-{number}-x.1" for number in range(3)]


async def test_beginning_and_taking_back_exclude_each_other(cluster: Cluster) -> None:
    told, worker = Told(cluster.web), cluster.worker()
    for rid in (f"{EPOCH}-1-x", f"{EPOCH}-2-x"):
        cluster.web.put(sent(rid), None)
        await told.has(Taken(rid))
    first = await asyncio.to_thread(worker.get, 10)
    second = await asyncio.to_thread(worker.get, 10)
    assert first is not None
    assert second is not None
    assert await asyncio.to_thread(first.begin)
    assert cluster.web.withdraw(second.envelope.rid) is None
    await told.has(Withdrawn(second.envelope.rid, begun=False))
    assert not await asyncio.to_thread(second.begin)


async def test_an_inbox_ends_with_its_process_and_lives_by_it_meanwhile(redis: Broker) -> None:
    cluster = Cluster(redis.url, epoch="other")
    await cluster.start()
    inbox = cluster.place.names.inbox("other")
    assert 0 < redis.cli("PTTL", inbox) <= 60_000
    await cluster.stop()
    assert redis.cli("EXISTS", inbox) == 0


async def test_an_inbox_that_was_lost_is_made_again(cluster: Cluster, redis: Broker) -> None:
    told, inbox = Told(cluster.web), cluster.place.names.inbox(EPOCH)
    redis.cli("DEL", inbox)
    await until(lambda: redis.cli("EXISTS", inbox))
    worker = cluster.worker()
    cluster.web.put(sent(RID), None)
    delivery = await asyncio.to_thread(worker.get, 10)
    assert delivery is not None
    assert await asyncio.to_thread(delivery.begin)
    worker.send(Outcome(RID, payload=b"yes"))
    await told.has(Outcome(RID, payload=b"yes"))


async def test_what_was_read_is_trimmed(cluster: Cluster, redis: Broker) -> None:
    inbox = cluster.place.names.inbox(EPOCH)
    for _ in range(200):
        redis.cli("XADD", inbox, "*", *said(Outcome("abc-0-x", payload=b"x" * 1000), inbox))
    await until(lambda: redis.cli("XLEN", inbox) < 200)


# ---- where it is


def test_a_message_is_what_kombu_would_have_put_there(redis: Broker) -> None:
    queue = f"plain-{uuid4().hex[:8]}"
    app = Celery(broker=redis.url, set_as_current=False)

    @app.task(name=f"{queue}.run")
    def run(endpoint: str) -> None: ...

    run.apply_async(("read",), queue=queue)
    theirs = json.loads(redis.cli("RPOP", queue))
    letter = Letters(queue, {"read": None}, 5.0).write("read", RID, 1, ("e", b""), 1.0, 101.0)
    ours = json.loads(message_of(letter))
    assert ours.keys() == theirs.keys()
    assert ours["content-type"] == theirs["content-type"]
    assert ours["content-encoding"] == theirs["content-encoding"]
    assert ours["headers"].keys() - {UNTIL} <= theirs["headers"].keys()
    assert {"lang", "task", "id", "root_id", "argsrepr", "kwargsrepr", "timelimit"} <= ours["headers"].keys()
    ways = {"correlation_id", "delivery_mode", "delivery_info", "priority", "delivery_tag"}
    assert ways <= ours["properties"].keys() <= theirs["properties"].keys() | {"reply_to"}
    assert ours["properties"]["delivery_info"]["routing_key"] == queue


@pytest.mark.parametrize(
    ("url", "theirs", "options"),
    [
        ("celery+redis://u:pw@h:1/3", "redis://u:pw@h:1/3", {}),
        ("celery+redis://h:1/3?global_keyprefix=a:", "redis://h:1/3", {"global_keyprefix": "a:"}),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock", {}),
        ("redis+socket:///run/redis.sock?virtual_host=2", "redis+socket:///run/redis.sock?virtual_host=2", {}),
    ],
)
def test_a_url_is_celerys_without_our_mark(url: str, theirs: str, options: dict[str, str]) -> None:
    place = broker_at(url, "ns")
    assert (place.url, place.options) == (theirs, options)
    assert "pw" not in repr(place)
    assert "pw" not in str(place)


@pytest.mark.parametrize("url", ["celery+sqs://", "celery+sentinel://h", "celery+memory://"])
def test_another_broker_is_refused_with_a_line(url: str) -> None:
    with pytest.raises(SettingsError, match="is not served"):
        broker_at(url, "ns")


def test_nothing_of_a_password_is_in_what_is_raised(redis: Broker) -> None:
    address = address_of(f"redis://:hidden@127.0.0.1:{redis.port}/0")
    with pytest.raises(OSError, match=".") as refused:
        Line(address)
    assert "hidden" not in str(refused.value)
