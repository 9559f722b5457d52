"""Both ends of the Celery transport on a RabbitMQ: what is told arrives, in order, and what has begun is known."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import Any
from uuid import uuid4

import amqp
import pytest
from amqp.exceptions import NotFound
from kombu import Connection

from offloop.clock import monotonic
from offloop.errors import SettingsError
from offloop.ingress.ids import epoch_of
from offloop.messages import Begun, Chunk, Envelope, Freed, Outcome, Progressed, Requeued, Withdrawn
from offloop.transports.celery.amqp import BEAT, PATIENCE, AmqpBroker, AmqpWebEnd, AmqpWorkerEnd, Recent
from offloop.transports.celery.amqp_line import Line
from offloop.transports.celery.amqp_wire import BrokerError
from offloop.transports.celery.broker import broker_at
from offloop.transports.celery.ends import Claim, Fields, TooLarge
from offloop.transports.celery.letters import Letter, Letters, queue_of
from offloop.transports.parcels import Cancel, Grant, Order, Parcel, Returned, returns
from tests.support.daemon import free_port
from tests.support.rabbit import Rabbit, anywhere, rabbit

DEADLINE = 10.0
MIB = 2**20
LIMIT = 16 * MIB
KEYS = ("a key",)
POOL = "gpu"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with anywhere() as url:
        yield url


@contextmanager
def place_at(url: str) -> Iterator[AmqpBroker]:
    """A namespace of its own, of which nothing is left."""
    place = broker_at(url, f"test-{uuid4().hex}")
    assert isinstance(place, AmqpBroker)
    yield place
    with administrator(place) as admin:
        for pool in (None, POOL):
            admin.queue_delete(queue_of(place.namespace, pool))
        for exchange in (place.gate, place.withdrawn, place.namespace):  # the last is kombu's
            admin.exchange_delete(exchange)


@contextmanager
def administrator(place: AmqpBroker) -> Iterator[Any]:
    address = place.address
    with amqp.Connection(f"{address.host}:{address.port}") as connection:
        yield connection.channel()


@pytest.fixture
def place(url: str) -> Iterator[AmqpBroker]:
    with place_at(url) as place:
        yield place


@pytest.fixture
def queue(place: AmqpBroker) -> str:
    """As Celery's workers make it."""
    with administrator(place) as admin:
        admin.queue_declare(place.namespace, durable=True, auto_delete=False)
    return place.namespace


class Web:
    """A web process: its end, and all that this says."""

    def __init__(self, place: AmqpBroker, pools: set[str | None], keys: Sequence[str] = KEYS) -> None:
        self.place = place
        self.epoch = uuid4().hex
        self.said: list[str] = []
        self.reports: list[Returned] = []
        self.unread = 0
        self.there: dict[str, tuple[int, int]] | None = None
        self.letters = Letters(place.namespace, {"echo": None, "paint": POOL}, 5.0)
        self.end: AmqpWebEnd = place.web_end(self.epoch, pools, keys, monotonic, self, LIMIT)
        self._seal = returns(keys, LIMIT)
        self._changed = asyncio.Event()
        self._number = 0

    # ---- `ends.User`

    def up(self) -> None:
        self._say("up")

    def down(self) -> None:
        self._say("down")

    def _say(self, what: str) -> None:
        self.said.append(what)
        self._changed.set()

    def came(self, parcels: Sequence[Fields]) -> None:
        for fields in parcels:
            if not fields:
                self.unread += 1
            else:
                self.reports.append(self._seal.read(self.place.inbox(self.epoch), fields))
        self._changed.set()

    def seen(self, there: dict[str, tuple[int, int]]) -> None:
        self.there = there
        self._changed.set()

    # ---- for tests

    async def until(self, true: Callable[[], Any], within: float = DEADLINE) -> None:
        async def wait() -> None:
            while not true():
                self._changed.clear()
                await self._changed.wait()

        try:
            await asyncio.wait_for(wait(), within)
        except TimeoutError:
            raise AssertionError(f"not within {within} s; it said {self.said}, {self.reports!r:.500}") from None

    def rid(self) -> str:
        self._number += 1
        return f"{self.epoch}-{self._number:x}-secret"

    def letter(self, rid: str = "", size: int = 100, endpoint: str = "echo") -> Letter:
        return self.letters.write(endpoint, rid or self.rid(), 1, [b"e", b"x" * size], 5.0, time.time() + 5.0)

    async def published(self, letters: Sequence[Letter]) -> dict[str, str]:
        """What each was answered, by rid."""
        answers: dict[str, str] = {}

        def answered(letter: Letter, fault: str) -> None:
            assert letter.rid not in answers
            answers[letter.rid] = fault
            self._changed.set()

        self.end.publish(letters, answered)
        await self.until(lambda: len(answers) == len(letters))
        return answers

    async def sent(self, many: int = 1) -> list[str]:
        """Requests that lie in the queue."""
        letters = [self.letter() for _ in range(many)]
        assert set((await self.published(letters)).values()) == {""}
        return [letter.rid for letter in letters]

    async def withdrawn(self, *claims: Claim) -> list[str | None]:
        answers: list[list[str | None]] = []
        self.end.withdraw(claims, lambda found: (answers.append(found), self._changed.set()))  # type: ignore[func-returns-value]
        await self.until(lambda: answers)
        [answer] = answers
        return answer

    def told_of(self, rid: str) -> list[type]:
        return [type(report) for report in self.reports if report.rid == rid]


@asynccontextmanager
async def opened(place: AmqpBroker, pools: set[str | None] | None = None) -> AsyncIterator[Web]:
    web = Web(place, {None} if pools is None else pools)
    await web.end.connect()
    life = asyncio.create_task(web.end.serve())
    try:
        yield web
    finally:
        web.end.close()
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life
        for _ in range(5):  # connections are closed a turn later
            await asyncio.sleep(0)


@pytest.fixture
async def web(place: AmqpBroker, queue: str) -> AsyncIterator[Web]:
    async with opened(place) as web:
        yield web


@pytest.fixture
def worker(place: AmqpBroker) -> Iterator[AmqpWorkerEnd]:
    with a_worker(place) as worker:
        yield worker


@contextmanager
def a_worker(place: AmqpBroker, name: str = "worker") -> Iterator[AmqpWorkerEnd]:
    worker = place.worker_end(name, returns(KEYS, LIMIT), KEYS, monotonic)
    yield worker
    worker.close()


class Hears:
    """The thread that a worker has for orders."""

    def __init__(self, worker: AmqpWorkerEnd) -> None:
        self.orders: list[Order] = []
        self._worker = worker
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for order in self._worker.orders():
            with self._changed:
                self.orders.append(order)
                self._changed.notify_all()

    def until(self, many: int) -> list[Order]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.orders) >= many, DEADLINE), self.orders
            return self.orders

    def close(self) -> None:
        self._worker.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


@asynccontextmanager
async def hearing(web: Web, worker: AmqpWorkerEnd, name: str = "worker") -> AsyncIterator[Hears]:
    """From the moment that it does."""
    hears = Hears(worker)
    try:
        await heard(web, hears, name)
        yield hears
    finally:
        await asyncio.to_thread(hears.close)


async def heard(web: Web, hears: Hears, name: str = "worker") -> None:
    """Until an order that is said again and again has arrived."""
    rid = uuid4().hex
    for _ in range(round(DEADLINE * 50)):
        web.end.order(Cancel(name, rid))
        await asyncio.sleep(0.02)
        if any(order.rid == rid for order in hears.orders):
            return
    raise AssertionError("no order arrives")


def parcel(rid: str, expires: float, gate: str = "") -> Parcel:
    """What a worker is given; `gate`: the first of whoever made the rid."""
    envelope = Envelope(rid=rid, endpoint="echo", payload=b"", deadline=0.0)
    return Parcel(expires, "print", False, envelope, gate or f"{epoch_of(rid)}.0")


def begin(worker: AmqpWorkerEnd, rid: str, left: float = 5.0, gate: str = "") -> str:
    """In a thread of its own, as a task does."""
    begun = Begun(rid, 1, "worker", worker.broker_time(monotonic()))
    try:
        return worker.begin(parcel(rid, time.time() + left, gate), begun)
    finally:
        _leave(worker)


def tell(worker: AmqpWorkerEnd, *reports: Returned, heard: bool = True) -> bool:
    """As above; whether all that was said unheard has been taken."""
    try:
        for report in reports:
            worker.tell(report.rid, report, heard=heard)
        return worker.settled()
    finally:
        _leave(worker)


def _leave(worker: AmqpWorkerEnd) -> None:
    """A thread that ends closes its connection in good order."""
    found = getattr(worker._lines, "line", None)
    if found is not None:
        found[1].close()
        worker._lines.line = None


async def in_thread(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return await asyncio.to_thread(call, *arguments, **options)


# ---- where


@pytest.mark.parametrize("scheme", ["amqp", "pyamqp", "celery+amqp", "celery+pyamqp"])
def test_a_url_of_a_rabbitmq_is_served(scheme: str) -> None:
    place = broker_at(f"{scheme}://me:secret@127.0.0.1:1/there?ssl_cert_reqs=none", "ns")
    assert isinstance(place, AmqpBroker)
    assert place.local
    assert place.url == f"{scheme.removeprefix('celery+')}://me:secret@127.0.0.1:1/there"
    assert place.options == {}
    assert repr(place) == str(place) == "celery on 127.0.0.1:1/there"


def test_no_other_broker_is() -> None:
    with pytest.raises(SettingsError, match="a Celery on sqs:// is not served"):
        broker_at("celery+sqs://here", "ns")


def test_what_is_lately_added_is_known_and_what_is_long_ago_forgotten() -> None:
    recent = Recent()
    for number in range(25_000):
        recent.add(str(number))
        assert str(number) in recent
    assert all(str(number) in recent for number in range(15_000, 25_000))
    assert "4999" not in recent
    recent.clear()
    assert "24999" not in recent


# ---- requests


async def test_letters_lie_in_celerys_queue_as_celery_writes_them(web: Web, queue: str, url: str) -> None:
    letter = web.letter()
    assert await web.published([letter]) == {letter.rid: ""}
    with Connection(url) as connection, closing(connection.SimpleQueue(queue)) as simple:
        message = simple.get(timeout=DEADLINE)
        message.ack()
    assert message.headers == letter.headers
    assert message.properties["correlation_id"] == letter.properties["correlation_id"]
    assert message.properties["delivery_mode"] == 1
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.delivery_info["routing_key"] == queue
    assert not message.delivery_info["redelivered"]
    args, kwargs, embed = message.payload
    assert (args, kwargs, list(embed)[-1]) == (["echo"], {}, "offloop")


@pytest.mark.parametrize("pool", ["gate", "withdrawn"])
async def test_no_name_of_a_pool_is_one_of_ours(place: AmqpBroker, pool: str) -> None:
    """For a queue, Celery makes an exchange of the same name, and of another type."""
    with administrator(place) as admin:
        exchange = queue_of(place.namespace, pool)
        admin.exchange_declare(exchange, "direct", durable=True, auto_delete=False)
        async with opened(place) as web:
            assert web.said == ["up"]
        with a_worker(place) as worker:
            async with opened(place) as web, hearing(web, worker):
                pass
        admin.exchange_delete(exchange)


async def test_two_thousand_letters_in_one_turn_are_all_answered(web: Web, queue: str) -> None:
    answers = await web.published([web.letter() for _ in range(2000)])
    assert len(answers) == 2000
    assert set(answers.values()) == {""}
    assert web.said == ["up"]
    with administrator(web.place) as admin:
        assert admin.queue_declare(queue, passive=True).message_count == 2000


async def test_a_large_letter_is_taken(web: Web) -> None:
    letter = web.letter(size=4 * MIB)
    assert await web.published([letter]) == {letter.rid: ""}
    assert web.said == ["up"]


async def test_a_letter_for_a_queue_that_nobody_has_ever_made_is_refused(web: Web) -> None:
    taken, refused = web.letter(), web.letter(endpoint="paint")
    assert await web.published([refused, taken]) == {taken.rid: "", refused.rid: "there is no such queue"}


async def test_a_letter_that_a_full_queue_refuses_is_answered_so(place: AmqpBroker) -> None:
    with administrator(place) as admin:
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        admin.queue_declare(place.namespace, durable=True, auto_delete=False, arguments=full)
    async with opened(place) as web:
        await web.sent()
        answers = await web.published([web.letter() for _ in range(3)])
        assert "it refuses the message" in answers.values()


async def test_whoever_takes_requests_is_seen(web: Web, place: AmqpBroker, queue: str) -> None:
    web.end.look()
    web.end.look()
    await web.until(lambda: web.there == {})
    async with opened(place, {None, POOL, "never"}) as other:
        with administrator(place) as admin:
            admin.queue_declare(queue_of(place.namespace, POOL), durable=True, auto_delete=False)
            for _ in range(2):
                admin.basic_consume(queue_of(place.namespace, POOL))
            admin.basic_consume(queue)
            other.end.look()
            await other.until(lambda: other.there is not None)
            assert other.there == {queue: (1, 0), f"{queue}.{POOL}": (2, 0)}
        other.there = None
        other.end.look()
        await other.until(lambda: other.there == {})


# ---- what comes back


async def test_all_that_a_worker_says_comes_in_order(web: Web, worker: AmqpWorkerEnd) -> None:
    [rid] = await web.sent()
    assert await in_thread(begin, worker, rid) == ""
    said: list[Returned] = [
        Progressed(rid, 1, 0.5, None, "half"),
        *(Chunk(rid, 1, number, b"\xff" * number) for number in range(1, 200)),
        Withdrawn(rid, None), Requeued(rid, 1),
        Outcome(rid, "ok", bytes(range(256)) * (4 * MIB // 256), begun_at=1.0, ended_at=2.0),
        Freed(rid, 1, "worker"),
    ]  # fmt: skip
    assert await in_thread(tell, worker, *said[:-4], heard=False)
    assert await in_thread(tell, worker, *said[-4:])
    await web.until(lambda: len(web.reports) == len(said) + 1)
    begun, *rest = web.reports
    assert isinstance(begun, Begun)
    assert abs(web.end.local_time(begun.at) - monotonic()) < DEADLINE
    assert rest == said
    assert web.unread == 0


async def test_what_cannot_be_read_does_no_harm(web: Web, worker: AmqpWorkerEnd, place: AmqpBroker) -> None:
    [rid] = await web.sent()
    inbox = place.inbox(web.epoch)
    with administrator(place) as admin:
        for body in (b"", b"\xc1", b"x" * 16, b"x" * MIB, b"\x93\xa1a\xa1b\xa1c", b"\x80"):
            admin.basic_publish(amqp.Message(body), "", inbox)
    await in_thread(tell, worker, Freed(rid, 1, "worker"))
    await web.until(lambda: web.reports)
    assert web.reports == [Freed(rid, 1, "worker")]
    assert web.unread == 6


async def test_what_is_said_to_nobody_is_no_fault(worker: AmqpWorkerEnd) -> None:
    assert await in_thread(tell, worker, Freed("gone-1-x", 1, "worker"))
    assert await in_thread(tell, worker, Chunk("gone-1-x", 1, 1, b""), heard=False)


async def test_nothing_is_left_of_a_web_process(place: AmqpBroker) -> None:
    async with opened(place) as web:
        inbox = place.inbox(web.epoch)
    with administrator(place) as admin:
        for _ in range(round(DEADLINE * 50)):
            with suppress(NotFound), administrator(place) as other:
                other.queue_declare(inbox, passive=True)
                await asyncio.sleep(0.02)
                continue
            break
        with pytest.raises(NotFound):
            admin.queue_declare(inbox, passive=True)


# ---- beginning


async def test_for_a_web_process_that_is_gone_nothing_begins(worker: AmqpWorkerEnd, place: AmqpBroker) -> None:
    async with opened(place) as web:
        rid = web.rid()
        assert await in_thread(begin, worker, rid) == ""
        await web.until(lambda: web.reports)
    for _ in range(round(DEADLINE * 50)):
        if await in_thread(begin, worker, rid) == "nobody waits":
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it begins for nobody")


async def test_a_thread_that_found_nobody_waiting_finds_the_next_who_does(web: Web, worker: AmqpWorkerEnd) -> None:
    def both() -> list[str]:
        found = [
            worker.begin(parcel(rid, time.time() + 5.0), Begun(rid, 1, "worker", 0.0))
            for rid in ("gone-1-x", web.rid(), "gone-1-x", web.rid())
        ]
        _leave(worker)
        return found

    assert await in_thread(both) == ["nobody waits", "", "nobody waits", ""]


@pytest.mark.parametrize("left", [-1.0, 0.0])
async def test_what_is_late_does_not_begin(web: Web, worker: AmqpWorkerEnd, left: float) -> None:
    [rid] = await web.sent()
    assert await in_thread(begin, worker, rid, left) == "late"
    assert await web.withdrawn(Claim(rid, 1, 0.0, True)) == [""]
    assert web.reports == []


async def shut(web: Web) -> str:
    """The gate by which things began so far, by which nothing does any more."""
    gate, done = web.end.gate, list[bool]()
    web.end.shut(lambda: (done.append(True), web._changed.set()))  # type: ignore[func-returns-value]
    await web.until(lambda: done)
    return gate


async def test_by_a_gate_that_was_shut_nothing_begins_and_by_the_next_it_does(web: Web, worker: AmqpWorkerEnd) -> None:
    before, late, after = await web.sent(3)
    assert await in_thread(begin, worker, before) == ""
    gate = await shut(web)
    assert web.told_of(before) == [Begun], "as it was when that was answered"
    assert await in_thread(begin, worker, late, gate=gate) == "nobody waits"
    assert await in_thread(begin, worker, after, gate=web.end.gate) == ""
    assert web.end._wire is not None
    web.end._wire.drop()
    await web.until(lambda: web.said == ["up", "down", "up"])
    assert await in_thread(begin, worker, late, gate=gate) == "nobody waits", "it stays so"
    [more] = await web.sent()
    assert await in_thread(begin, worker, more, gate=web.end.gate) == ""


async def test_what_was_said_to_begin_and_finds_its_gate_shut_when_it_asks_again_is_told_not_to_have(
    web: Web, worker: AmqpWorkerEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has passed, and does not know: its confirmation is lost."""
    [rid] = await web.sent()
    passes, passed, is_shut = worker._pass_gate, threading.Event(), threading.Event()

    def unheard(gate: str, body: bytes, until: float, line: Line) -> str:
        answer = passes(gate, body, until, line)
        if not passed.is_set():
            passed.set()
            assert is_shut.wait(DEADLINE)
            raise BrokerError("the broker does not answer")
        return answer

    monkeypatch.setattr(worker, "_pass_gate", unheard)
    begins = asyncio.create_task(in_thread(begin, worker, rid, 2 * DEADLINE))
    assert await in_thread(passed.wait, DEADLINE)
    await shut(web)  # because of another
    is_shut.set()
    assert await begins == "nobody waits"
    await web.until(lambda: web.told_of(rid) == [Begun, Outcome])
    assert web.reports[-1] == Outcome(rid, "backend-unavailable", attempt=1, started=False)


async def test_what_is_large_goes_by_the_next_gate_once_that_is_open(web: Web, place: AmqpBroker, queue: str) -> None:
    """It goes by another channel, and would be there before it."""
    answers: list[str] = []
    done: list[bool] = []
    web.end.shut(lambda: done.append(True))
    assert web.end._wire is not None
    web.end.publish([web.letter(size=MIB), web.letter()], lambda _, fault: answers.append(fault))
    assert not web.end._wire._bulk
    assert web.end._wire._moving is None
    await web.published([web.letter(), web.letter(size=MIB)])
    await web.until(lambda: (len(answers) == 2 and done) or web.end.look() or None)
    assert (answers, done) == (["", ""], [True])


@pytest.mark.parametrize("waits_for", ["others", "the next gate"])
async def test_what_is_large_and_taken_back_while_it_waits_is_not_sent_and_surely_not_begun(
    web: Web, queue: str, waits_for: str
) -> None:
    answers: list[str] = []
    first, unwanted, wanted = [web.letter(size=MIB) for _ in range(3)]
    if waits_for == "the next gate":
        web.end.shut(lambda: None)
    web.end.publish([first, unwanted, wanted], lambda letter, _: answers.append(letter.rid))
    claims = [Claim(unwanted.rid, 1, 5.0, False), Claim(web.rid(), 1, 5.0, False)]
    assert await web.withdrawn(*claims) == ["", None]
    await web.until(lambda: len(answers) == 2 or web.end.look() or None)
    await web.published([web.letter(size=MIB)])
    assert answers == [first.rid, wanted.rid]
    with administrator(web.place) as admin:
        assert admin.queue_declare(queue, passive=True).message_count == 3


async def test_what_a_drain_cuts_and_had_not_been_sent_is_known_beside_what_had(
    web: Web, worker: AmqpWorkerEnd
) -> None:
    [lies] = await web.sent()
    first, unsent = [web.letter(size=MIB) for _ in range(2)]
    web.end.publish([first, unsent], lambda *_: None)
    assert await web.withdrawn(*(Claim(rid, 1, 5.0, True) for rid in (unsent.rid, lies))) == ["", ""]
    assert await in_thread(begin, worker, lies) == "nobody waits"


async def test_whatever_begins_while_its_gate_is_shut_is_known_when_it_is(web: Web, place: AmqpBroker) -> None:
    """However the two fall together."""
    rids, begun = await web.sent(200), set[str]()
    with a_worker(place) as worker:
        line = threading.Barrier(3)

        def run(mine: list[str]) -> None:
            worker.tell(mine[0], Freed(mine[0], 0, ""), heard=True)  # a connection is there
            line.wait(DEADLINE)
            for rid in mine:
                if not worker.begin(parcel(rid, time.time() + DEADLINE), Begun(rid, 1, "worker", 0.0)):
                    begun.add(rid)
            _leave(worker)

        async def shuts() -> set[str]:
            await in_thread(line.wait, DEADLINE)
            await web.until(lambda: sum(isinstance(report, Begun) for report in web.reports) > 20)
            await shut(web)
            return {report.rid for report in web.reports if isinstance(report, Begun)}

        known, *_ = await asyncio.gather(shuts(), *(in_thread(run, rids[start::2]) for start in range(2)))
    assert begun
    assert begun < set(rids), "there was no race"
    assert begun <= known


async def test_what_was_said_into_a_lost_inbox_is_not_known(web: Web) -> None:
    [rid] = await web.sent()
    assert web.end.knows(rid)
    assert web.end._wire is not None
    web.end._wire.drop()
    await web.until(lambda: web.said == ["up", "down", "up"])
    assert not web.end.knows(rid)
    [after] = await web.sent()
    assert web.end.knows(after)


async def test_at_the_deadline_what_has_begun_is_known(web: Web, place: AmqpBroker) -> None:
    """However the two fall together, nothing has begun, or will, that the withdrawal does not know of."""
    many, spread = 200, 0.1
    rids = await web.sent(many)
    until = time.time() + 1.0
    begun: set[str] = set()
    with a_worker(place) as worker:
        line = threading.Barrier(4)

        def run(mine: list[str]) -> None:
            worker.tell(mine[0], Freed(mine[0], 0, ""), heard=True)  # a connection is there
            line.wait(DEADLINE)
            for at, rid in sorted((until + random.uniform(-spread, spread / 5), rid) for rid in mine):
                threading.Event().wait(max(0.0, at - time.time()))
                if not worker.begin(parcel(rid, until), Begun(rid, 1, "worker", 0.0)):
                    begun.add(rid)
            _leave(worker)

        async def withdraw() -> set[str]:
            await asyncio.sleep(until - time.time())
            found = await web.withdrawn(*(Claim(rid, 1, until - time.time(), True) for rid in rids))
            assert found == [""] * many
            return {report.rid for report in web.reports if isinstance(report, Begun)}

        known, *_ = await asyncio.gather(withdraw(), *(in_thread(run, rids[start::4]) for start in range(4)))
    assert begun
    assert begun < set(rids)
    assert begun <= known


async def test_what_has_begun_and_has_not_come_yet_is_known(web: Web, worker: AmqpWorkerEnd) -> None:
    [rid] = await web.sent()
    task = threading.Thread(target=begin, args=(worker, rid))
    task.start()
    task.join(DEADLINE)  # meanwhile this event loop hears nothing
    known: list[list[type]] = []
    web.end.withdraw([Claim(rid, 1, 0.0, True)], lambda _: known.append(web.told_of(rid)))
    assert web.told_of(rid) == []
    await web.until(lambda: web.told_of(rid))
    await web.published([web.letter()])
    await web.until(lambda: known)
    assert known == [[Begun]]


async def test_what_a_drain_cuts_does_not_begin_any_more_nor_does_anything_else(
    web: Web, worker: AmqpWorkerEnd
) -> None:
    begun, cut, other, unsent = *await web.sent(3), web.rid()
    assert await web.withdrawn(Claim(cut, 1, 5.0, False)) == [None], "somebody who has left shuts no gate"
    assert await in_thread(begin, worker, begun) == ""
    claims = [Claim(rid, 1, 5.0, True) for rid in (cut, begun, unsent)]
    assert await web.withdrawn(*claims) == ["", "", None]
    assert web.told_of(begun) == [Begun], "as it was when that was answered"
    for rid in (cut, other):
        assert await in_thread(begin, worker, rid) == "nobody waits"
    assert await web.withdrawn(Claim(other, 1, 5.0, False)) == [""]
    assert await in_thread(tell, worker, Outcome(begun))
    await web.until(lambda: web.told_of(begun) == [Begun, Outcome])
    assert web.end._wire is not None
    web.end._wire.drop()
    await web.until(lambda: web.said == ["up", "down", "up"])
    assert await in_thread(begin, worker, cut) == "nobody waits"


async def test_what_is_cut_while_there_is_no_connection_is_answered_over_the_next(
    web: Web, worker: AmqpWorkerEnd
) -> None:
    [rid] = await web.sent()
    assert web.end._wire is not None
    web.end._wire.drop()
    assert await web.withdrawn(Claim(rid, 1, 5.0, True)) == [None], "what was said of it may be lost"
    assert await in_thread(begin, worker, rid) == "nobody waits"


# ---- what was sent to another inbox


async def test_a_connection_that_breaks_is_opened_again_and_what_it_knew_is_not_known(
    web: Web, worker: AmqpWorkerEnd
) -> None:
    before = await web.sent(2)
    assert web.end._wire is not None
    web.end._wire.drop()
    assert not web.end.is_up
    assert web.said == ["up", "down"]
    web.end.publish([web.letter()], lambda *_: pytest.fail("there is no connection"))
    await web.until(lambda: web.said == ["up", "down", "up"])
    assert web.end.is_up
    [after] = await web.sent()
    assert await web.withdrawn(*(Claim(rid, 1, 0.0, True) for rid in (*before, after))) == [None, None, ""]
    assert await in_thread(begin, worker, before[0]) == ""
    await web.until(lambda: web.told_of(before[0]) == [Begun])


async def test_an_inbox_that_was_emptied_is_not_believed(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    [rid] = await web.sent()
    web.end._probes[b"the probe that was there"] = lambda: pytest.fail("it does not come")
    await web.until(lambda: web.said == ["up", "down", "up"])
    assert "somebody has emptied this process' inbox" in caplog.text
    assert await web.withdrawn(Claim(rid, 1, 0.0, True)) == [None]


# ---- orders


async def test_orders_arrive_and_others_are_passed_over(
    web: Web, place: AmqpBroker, worker: AmqpWorkerEnd, caplog: pytest.LogCaptureFixture
) -> None:
    async with hearing(web, worker) as hears:
        start = len(hears.orders)
        with administrator(place) as admin:
            for where in (("", place.orders("worker")), (place.withdrawn, "")):
                admin.basic_publish(amqp.Message(b"\x92\xc4\x01e\xc4\x01x"), *where)
                admin.basic_publish(amqp.Message(b"?"), *where)
        web.end.order(Grant("nobody", "r", 1))
        web.end.order(Grant("worker", "r", 7))
        web.end.order(Cancel("worker", "r"))
        orders = await in_thread(hears.until, start + 2)
        assert [order for order in orders if order.rid == "r"] == [Grant("worker", "r", 7), Cancel("worker", "r")]
    assert "an order is dropped: it is not signed" in caplog.text
    assert "an order is dropped: it cannot be read" in caplog.text


async def test_what_was_taken_back_early_is_not_begun_by_whoever_has_heard_it(web: Web, worker: AmqpWorkerEnd) -> None:
    cancelled, other = await web.sent(2)
    async with hearing(web, worker):
        assert await web.withdrawn(Claim(cancelled, 1, 5.0, False), Claim(other, 1, 0.0, True)) == [None, ""]
        for _ in range(round(DEADLINE * 50)):
            if cancelled in worker._withdrawn:
                break
            await asyncio.sleep(0.02)
        assert await in_thread(begin, worker, cancelled) == "withdrawn"
        assert await in_thread(begin, worker, other) == ""
        await web.until(lambda: len(web.reports) == 2)
        assert web.reports[0] == Withdrawn(cancelled, False)
        assert web.told_of(other) == [Begun]


# ---- a connection that breaks on the other side


def test_a_worker_says_it_again_over_a_new_connection(worker: AmqpWorkerEnd) -> None:
    rid = "gone-1-x"
    worker.tell(rid, Freed(rid, 1, ""), heard=True)
    first: Line = worker._lines.line[1]
    first._connection.transport.sock.shutdown(2)
    worker.tell(rid, Freed(rid, 1, ""), heard=True)
    second: Line = worker._lines.line[1]
    assert second is not first
    second._connection.transport.sock.shutdown(2)
    with pytest.raises(BrokerError):
        worker.tell(rid, Chunk(rid, 1, 1, b""), heard=False)
    assert not worker.settled()
    assert worker.settled()


def test_a_forked_child_opens_a_connection_of_its_own_and_leaves_its_parents_alone(worker: AmqpWorkerEnd) -> None:
    report = Freed("gone-1-x", 1, "")
    worker.tell(report.rid, report, heard=True)
    pid, parents = worker._lines.line
    parents._owner = pid - 1
    worker._lines.line = pid - 1, parents
    worker.tell(report.rid, report, heard=True)
    assert worker._lines.line[1] is not parents
    parents._owner = pid
    parents.send("", "nowhere", b"")
    parents.settle()
    parents.close()


def test_stream_messages_that_the_broker_has_not_taken_are_known(worker: AmqpWorkerEnd, place: AmqpBroker) -> None:
    rid, inbox = "full-1-x", place.inbox("full")
    with administrator(place) as admin:
        admin.queue_declare(inbox, auto_delete=False, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        worker.tell(rid, Chunk(rid, 1, 1, b""), heard=False)
        assert worker.settled()
        for number in range(2, 5):
            worker.tell(rid, Chunk(rid, 1, number, b""), heard=False)
        assert not worker.settled()
        assert worker.settled(), "since it was asked the last time"
        worker.tell(rid, Chunk(rid, 1, 5, b""), heard=False)
        with pytest.raises(BrokerError, match="refuses"):
            worker.tell(rid, Freed(rid, 1, ""), heard=True)
        admin.queue_delete(inbox)


async def test_where_no_broker_is_nothing_starts() -> None:
    place = broker_at(f"amqp://127.0.0.1:{free_port()}", "test")
    assert isinstance(place, AmqpBroker)
    with pytest.raises(BrokerError):
        await Web(place, {None}).end.connect()
    with a_worker(place) as worker:
        with pytest.raises(BrokerError):
            worker.tell("gone-1-x", Freed("gone-1-x", 1, ""), heard=True)
        until = time.time() + 0.3
        with pytest.raises(BrokerError):
            worker.begin(parcel("gone-1-x", until), Begun("gone-1-x", 1, "", 0.0))
        assert time.time() >= until - 0.05


# ---- a broker that is in trouble: one of their own


@pytest.fixture(scope="module")
def own() -> Iterator[Rabbit]:
    with rabbit() as own:
        yield own


@pytest.fixture
def troubled(own: Rabbit) -> Iterator[AmqpBroker]:
    with place_at(own.url) as place:
        with administrator(place) as admin:
            admin.queue_declare(place.namespace, durable=True, auto_delete=False)
        yield place


@pytest.mark.slow
async def test_a_broker_that_takes_nothing_is_down_until_it_does(own: Rabbit, troubled: AmqpBroker) -> None:
    async with opened(troubled) as web:
        alarm = asyncio.ensure_future(in_thread(own.short_of_memory, True))
        try:
            await in_thread(own.until_said, "memory resource limit alarm set")
            await web.until(lambda: web.said == ["up", "down"], 1.0)  # nothing was asked of it: a probe has met it
            await alarm
            assert not web.end.is_up
            await asyncio.sleep(3 * (BEAT + PATIENCE))
            assert web.said == ["up", "down"], "it stays down"
            with pytest.raises(BrokerError, match="short of memory"):
                await Web(troubled, {None}).end.connect()
            with a_worker(troubled) as worker, pytest.raises(BrokerError, match="short of memory"):
                await in_thread(tell, worker, Freed("gone-1-x", 1, ""))
        finally:
            await in_thread(own.short_of_memory, False)
        await web.until(lambda: web.said == ["up", "down", "up"])
        await web.sent(10)


@pytest.mark.slow
async def test_a_report_that_is_too_large_for_the_broker_is_said_to_be(own: Rabbit, troubled: AmqpBroker) -> None:
    await in_thread(own.ctl, "eval", "application:set_env(rabbit, max_message_size, 300000).")
    try:
        async with opened(troubled) as web:
            with a_worker(troubled) as worker:
                [rid] = await web.sent()
                with pytest.raises(TooLarge, match="message size"):
                    await in_thread(tell, worker, Outcome(rid, payload=b"x" * 400_000))
                await in_thread(tell, worker, Outcome(rid, "node-failed"))
                await web.until(lambda: web.told_of(rid) == [Outcome])
                assert web.said == ["up"]
    finally:
        await in_thread(own.ctl, "eval", "application:set_env(rabbit, max_message_size, 134217728).")


@pytest.mark.slow
async def test_a_broker_that_hangs_is_given_up_and_taken_again(own: Rabbit, troubled: AmqpBroker) -> None:
    async with opened(troubled) as web:
        with a_worker(troubled) as worker:
            [rid] = await web.sent()
            own.pause()
            try:
                began = monotonic()
                web.end.publish([web.letter()], lambda *_: pytest.fail("it cannot be known"))
                late = asyncio.ensure_future(in_thread(begin, worker, rid, 1.0))
                await web.until(lambda: web.said == ["up", "down"])
                assert monotonic() - began < 1.5 + 0.5
                assert not web.end.is_up
                with pytest.raises(BrokerError):
                    await late
            finally:
                own.resume()
            await web.until(lambda: web.said == ["up", "down", "up"])
            await web.sent()


@pytest.mark.slow
async def test_a_broker_that_was_killed_is_found_when_it_is_back(own: Rabbit, troubled: AmqpBroker) -> None:
    async with opened(troubled) as web:
        with a_worker(troubled) as worker:
            async with hearing(web, worker) as hears:
                began = monotonic()
                own.kill()
                await web.until(lambda: web.said == ["up", "down"], 1.0)
                assert monotonic() - began < 1.0
                await in_thread(own.start)
                await web.until(lambda: web.said == ["up", "down", "up"], 5.0)
                [rid] = await web.sent()
                assert await in_thread(begin, worker, rid) == ""
                assert await in_thread(tell, worker, Outcome(rid))
                await web.until(lambda: web.told_of(rid) == [Begun, Outcome])
                await heard(web, hears)


@pytest.mark.slow
async def test_what_is_heard_too_late_does_not_begin(own: Rabbit, troubled: AmqpBroker) -> None:
    """The gate has let it pass, and the worker learns of it when its time is up: it takes back what it said."""
    async with opened(troubled) as web:
        with a_worker(troubled) as worker:
            [rid] = await web.sent()

            def late() -> str:
                worker.tell(rid, Progressed(rid, 1, 0.0), heard=True)  # a connection is there
                own.pause()
                threading.Timer(0.5, own.resume).start()
                return begin(worker, rid, 0.3)

            assert await in_thread(late) == "late"
            await web.until(lambda: web.told_of(rid) == [Progressed, Begun, Outcome])
            assert web.said == ["up"]
