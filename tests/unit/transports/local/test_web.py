"""The web side over real sockets, on asyncio and uvloop; the worker's side is played by hand, frame by frame."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from offloop.events import Event, Events, Kind
from offloop.messages import Begun, Chunk, Freed, Outcome, Progressed, Refused, Report, Withdrawn, WorkerGone
from offloop.transports.local import frames
from offloop.transports.local.frames import Cancel, Failed, Grant, Progress, Ready, Stop, Withdraw, Work
from offloop.transports.local.link import Link
from offloop.transports.local.web import LocalTransport
from tests.unit.transports.local.rig import DEADLINE, FAR, WorkerSide, envelope, setup

NAME = "worker-0:1"
OTHER = "worker-1:2"
MAX_REPORT = 2**20


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Seen:
    """An observer of what a worker does."""

    kinds: frozenset[Kind] = frozenset({"dequeue", "start", "finish"})

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)

    def __len__(self) -> int:
        return len(self.events)


class Web:
    """A transport on the running event loop, with the workers that the tests play."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.transport = LocalTransport(asyncio.get_running_loop(), Events([self.seen]), MAX_REPORT)
        self.batches: list[list[Report]] = []
        self.transport.subscribe(lambda reports: self.batches.append(list(reports)))
        self.workers: list[WorkerSide] = []

    def worker(self, name: str = NAME, places: int = 17) -> WorkerSide:
        worker = WorkerSide(name, places)
        self.workers.append(worker)
        worker.attach(self.transport)
        assert worker.orders() == [setup(name)]
        return worker

    def link(self, name: str = NAME) -> Link:
        return self.transport._links[name]

    @property
    def reports(self) -> list[Report]:
        return [report for batch in self.batches for report in batch]

    async def until(self, true: Callable[[], object]) -> None:
        """Let the event loop turn until something is so."""
        async with asyncio.timeout(DEADLINE):
            while not true():  # noqa: ASYNC110  (each turn of the event loop is what it waits for)
                await asyncio.sleep(0)

    def close(self) -> None:
        self.transport.close()
        for worker in self.workers:
            worker.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    web = Web()
    yield web
    web.close()


async def turn() -> None:
    """What was put goes out; what lies in sockets is read."""
    for _ in range(3):
        await asyncio.sleep(0)


def speak(worker: WorkerSide, *said: Any) -> None:
    """Let the worker send it."""
    for one in said:
        for piece in frames.report(one) if isinstance(one, Outcome | Chunk) else frames.plain(one):
            worker.work.sendall(piece)


async def put(web: Web, worker: WorkerSide, *rids: str, **fields: Any) -> list[Work]:
    """Put them, and have the worker read them all."""
    for rid in rids:
        web.transport.put(envelope(rid, **fields), worker.name)
    await turn()
    found: list[Any] = []
    while len(found) < len(rids):
        found += worker.orders()
    return found


def rids(orders: Sequence[Any]) -> list[str]:
    return [order.envelope.rid for order in orders]


# ---- out


async def test_an_idle_worker_gets_its_request_at_once(web: Web) -> None:
    worker = web.worker()
    web.transport.put(envelope(), NAME)
    (order,) = worker.orders()
    assert isinstance(order, Work)
    assert (order.envelope, order.number) == (envelope(), 1)
    speak(worker, Outcome("r1"))
    web.transport.settle()
    web.transport.put(envelope("r2"), NAME)
    assert rids(worker.orders()) == ["r2"]


class Counting:
    """A socket that counts its writes."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.writes = 0

    def send(self, piece: bytes) -> int:
        self.writes += 1
        return self.line.send(piece)

    def sendmsg(self, pieces: list[bytes]) -> int:
        self.writes += 1
        return self.line.sendmsg(pieces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.line, name)


async def test_many_puts_take_few_writes_and_arrive_in_their_order(web: Web) -> None:
    worker = web.worker(places=100)
    line: Any = Counting(web.link().work._line)
    web.link().work._line = line
    sent = [f"r{number}" for number in range(100)]
    orders = await put(web, worker, *sent)
    assert rids(orders) == sent
    assert [order.number for order in orders] == list(range(1, 101))
    assert len({order.place for order in orders}) == 100
    assert line.writes == 2  # the first for an idle worker, the others together


async def test_large_and_small_ones_put_together_arrive_whole(web: Web) -> None:
    worker = web.worker()
    sizes = [1, 20_000, 60_000, 0, 40_000]
    sent = [envelope(f"r{number}", bytes([number]) * size) for number, size in enumerate(sizes)]
    for one in sent:
        web.transport.put(one, NAME)
    await turn()
    found: list[Any] = []
    while len(found) < len(sent):
        found += worker.orders()
    assert [order.envelope for order in found] == sent


async def test_a_worker_that_does_not_read_blocks_nobody_and_loses_nothing(web: Web) -> None:
    worker = web.worker(places=60)
    sent = [envelope(f"r{number}", bytes([number]) * 50_000) for number in range(60)]
    for one in sent:
        web.transport.put(one, NAME)
        await turn()
    assert web.link().work.blocked
    # What no byte has been sent of is taken back at once; of the rest the worker is asked.
    assert web.transport.withdraw("r59") is True
    assert web.transport.withdraw("r0") is None
    assert worker.controls() == [Withdraw("r0", 1)]
    found: list[Any] = []
    reading = asyncio.get_running_loop()
    while len(found) < 59:
        found += await reading.run_in_executor(None, worker.orders)
    assert [order.envelope for order in found] == sent[:59]
    await web.until(lambda: not web.link().work.blocked)
    web.transport.put(envelope("last"), NAME)
    await turn()
    assert rids(worker.orders()) == ["last"]


async def test_a_worker_that_reads_no_controls_blocks_nobody_and_loses_none(web: Web) -> None:
    worker = web.worker(places=1000)
    sent = [f"r{number}" for number in range(1000)]
    await put(web, worker, *sent)
    assert {web.transport.withdraw(rid) for rid in sent} == {None}
    assert web.link().control.blocked
    found: list[Any] = []
    reading = asyncio.get_running_loop()
    while len(found) < len(sent):
        found += await reading.run_in_executor(None, worker.controls)
    assert found == [Withdraw(rid, number) for number, rid in enumerate(sent, 1)]


async def test_what_is_put_for_nobody_is_without_effect(web: Web) -> None:
    web.transport.put(envelope(), "worker-7:7")
    web.transport.put(envelope(), None)
    assert web.transport.withdraw("r1") is False
    assert web.transport._held == {}


@pytest.mark.parametrize("name", ["x" * 2**21, "r\udce9sum\udce9.pdf"], ids=["long", "no UTF-8"])
async def test_labels_that_no_worker_would_take_are_refused(
    web: Web, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = web.worker()
    web.transport.put(envelope("r1", filename=name), NAME)
    assert web.reports == []  # whoever puts is not called from within
    await turn()
    assert web.reports == [Refused("r1", "payload-too-large")]
    assert "a request to read cannot be sent" in caplog.text
    assert rids(await put(web, worker, *[f"s{number}" for number in range(17)])) == [f"s{n}" for n in range(17)]


async def test_a_stop_comes_after_the_work_that_was_put_before_it(web: Web) -> None:
    worker = web.worker()
    for rid in ("r1", "r2", "r3"):
        web.transport.put(envelope(rid), NAME)
    web.transport.finish(NAME)
    web.transport.finish("worker-7:7")
    found: list[Any] = []
    while len(found) < 4:
        found += worker.orders()
    assert rids(found[:3]) == ["r1", "r2", "r3"]
    assert found[3] == Stop()


async def test_the_attendant_is_told_once_when_a_worker_has_had_its_share(web: Web) -> None:
    worker = web.worker()
    web.transport.limit(NAME, 2)
    for number, worn in ((1, []), (2, [NAME]), (3, [NAME])):
        web.transport.put(envelope(f"r{number}"), NAME)
        assert worker.attendant.worn_out == worn
        assert web.transport.handed(NAME) == number


# ---- taken back, and cancelled


async def test_what_was_not_sent_yet_is_taken_back_at_once(web: Web) -> None:
    worker = web.worker()
    for rid in ("r1", "r2", "r3"):
        web.transport.put(envelope(rid), NAME)
    assert web.transport.withdraw("r2") is True
    assert web.transport.withdraw("r2") is False
    await turn()
    found: list[Any] = []
    while len(found) < 2:
        found += worker.orders()
    assert rids(found) == ["r1", "r3"]
    assert len(web.link().places) == 15


async def test_a_worker_is_asked_once_for_what_it_was_sent(web: Web) -> None:
    worker = web.worker()
    await put(web, worker, "r1", "r2")
    assert web.transport.withdraw("r2") is None
    assert web.transport.withdraw("r2") is None
    assert worker.controls() == [Withdraw("r2", 2)]
    speak(worker, Withdrawn("r2", begun=False))
    await web.until(lambda: web.reports)
    assert web.reports == [Withdrawn("r2", begun=False)]
    assert web.transport.withdraw("r2") is False
    assert len(web.link().places) == 16


async def test_what_has_begun_cannot_be_taken_back_and_nobody_is_asked(web: Web) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    worker.table[order.place] = 12.25
    assert web.transport.withdraw("r1") is False
    web.transport.cancel("r1")
    assert worker.controls() == [Cancel("r1")]


async def test_a_withdrawal_that_came_too_late_leaves_the_request_to_its_worker(web: Web) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    assert web.transport.withdraw("r1") is None
    worker.table[order.place] = 12.25
    speak(worker, Withdrawn("r1", begun=True), Outcome("r1"))
    await web.until(lambda: Outcome("r1") in web.reports)
    assert web.reports == [Withdrawn("r1", begun=True), Outcome("r1")]


async def test_an_answer_for_what_has_ended_meanwhile_is_passed_over(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    assert web.transport.withdraw("r1") is None
    worker.table[order.place] = 12.25
    speak(worker, Outcome("r1"), Withdrawn("r1", begun=True), Ready())
    await web.until(lambda: worker.attendant.heard)
    assert web.reports == [Outcome("r1")]
    assert caplog.records == []  # it is nobody's fault


async def test_unknown_ids_reach_no_worker(web: Web) -> None:
    worker = web.worker()
    web.transport.cancel("nobody")
    assert web.transport.withdraw("nobody") is False
    await put(web, worker, "r1")
    web.transport.cancel("r1")
    assert worker.controls() == [Cancel("r1")]


async def test_what_was_taken_is_told_to_the_worker_that_has_the_request(web: Web) -> None:
    worker, other = web.worker(), web.worker(OTHER)
    await put(web, worker, "r1", stream=True)
    await put(web, other, "r2", stream=True)
    web.transport.grant("nobody", 1)
    web.transport.grant("r2", 300)
    web.transport.grant("r1", 2**40)
    assert worker.controls() == [Grant("r1", 2**40)]
    assert other.controls() == [Grant("r2", 300)]
    speak(worker, Outcome("r1"))
    await web.until(lambda: Outcome("r1") in web.reports)
    web.transport.grant("r1", 1)
    await put(web, worker, "r3")
    web.transport.cancel("r3")
    assert worker.controls() == [Cancel("r3")]


async def test_stream_messages_and_progress_come_in_the_order_in_which_they_were_sent(web: Web) -> None:
    worker = web.worker()
    await put(web, worker, "r1", stream=True)
    said = [Progressed("r1", 1, 0.0), Chunk("r1", 1, 1, b"1"), Progressed("r1", 1, 1.0, 1.0, "all"), Outcome("r1")]
    speak(worker, *said)
    await web.until(lambda: Outcome("r1") in web.reports)
    assert web.reports == [Begun("r1", 1, NAME, 0.0), *said]


# ---- back


async def test_begun_is_reported_and_told_once_with_its_time(web: Web) -> None:
    worker = web.worker()
    order, _ = await put(web, worker, "r1", "r2", attempt=2)
    web.transport.settle()
    assert web.reports == []
    worker.table[order.place] = 12.25
    for _ in range(3):
        web.transport.settle()
    assert web.reports == [Begun("r1", 2, NAME, 12.25)]
    kinds: tuple[Kind, ...] = ("dequeue", "start")
    assert web.seen.events == [
        Event(t=12.25, kind=kind, rid="r1", endpoint="read", attempt=2, deadline=FAR, worker=NAME) for kind in kinds
    ]
    assert web.transport.running(NAME) == ["read (r1)"]
    assert not web.transport.rests(NAME)


async def test_a_last_outcome_says_itself_that_it_had_begun(web: Web) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    worker.table[order.place] = 12.25
    outcome = Outcome("r1", payload=b"answer", begun_at=12.25, ended_at=12.5, worker=NAME)
    speak(worker, outcome)
    await web.until(lambda: web.reports)
    assert web.reports == [outcome]
    dequeue, start, finish = web.seen.events
    assert [(event.kind, event.t) for event in (dequeue, start)] == [("dequeue", 12.25), ("start", 12.25)]
    assert (finish.kind, finish.t) == ("finish", 12.5)
    assert (finish.outcome, finish.size, finish.worker, finish.attempt) == ("ok", 6, NAME, 1)
    assert len(web.link().places) == 17
    assert web.transport.running(NAME) == []
    assert web.transport.rests(NAME)


async def test_a_worker_that_takes_its_work_elsewhere_rests_when_its_table_is_empty(web: Web) -> None:
    worker = web.worker()
    assert web.transport.rests(NAME)
    worker.table[0] = FAR
    assert not web.transport.rests(NAME)
    worker.table[0] = 0.0
    assert web.transport.rests(NAME)


async def test_chunks_and_an_early_outcome_come_after_begun_and_the_end_is_told_once(web: Web) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    worker.table[order.place] = 12.25
    said: list[Report] = [Chunk("r1", 1, 1, b"1"), Outcome("r1", last=False), Freed("r1", 1, NAME)]
    for one, places in zip(said, (16, 16, 17), strict=True):
        speak(worker, one)
        await web.until(lambda one=one: one in web.reports)  # type: ignore[misc]
        assert len(web.link().places) == places
    assert web.reports == [Begun("r1", 1, NAME, 12.25), *said]
    assert [event.kind for event in web.seen.events] == ["dequeue", "start", "finish"]


async def test_a_cancelled_request_that_only_frees_its_loop_is_told_as_finished(web: Web) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    worker.table[order.place] = 12.25
    speak(worker, Freed("r1", 1, NAME))
    await web.until(lambda: Freed("r1", 1, NAME) in web.reports)
    assert [(event.kind, event.outcome) for event in web.seen.events] == [
        ("dequeue", ""), ("start", ""), ("finish", "cancelled"),
    ]  # fmt: skip


async def test_a_place_that_is_given_again_does_not_say_that_its_next_has_begun(web: Web) -> None:
    worker = web.worker(places=1)
    (first,) = await put(web, worker, "r1")
    worker.table[first.place] = 12.25
    speak(worker, Outcome("r1"))
    await web.until(lambda: web.reports)
    (second,) = await put(web, worker, "r2")
    assert second.place == first.place
    web.transport.settle()
    assert web.reports == [Outcome("r1")]
    assert web.transport.withdraw("r2") is None


async def test_settling_reads_what_has_come(web: Web) -> None:
    worker = web.worker()
    await put(web, worker, "r1")
    speak(worker, Outcome("r1"))
    web.transport.settle()
    assert web.reports == [Outcome("r1")]


async def test_many_reports_are_received_together(web: Web) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    worker.table[order.place] = 12.25
    chunks = [Chunk("r1", 1, number, b"{}") for number in range(100)]
    speak(worker, *chunks)
    await web.until(lambda: len(web.reports) == 101)
    assert len(web.batches) == 1


STRAY = [Outcome("nobody"), Freed("r1", 2, NAME), Chunk("r1", 7, 1, b""), Outcome("r2"), Freed("r2", 1, OTHER)]


@pytest.mark.parametrize("stray", STRAY, ids=["nobody's", "later", "another attempt", "another's", "another's name"])
async def test_what_a_worker_says_of_requests_that_it_does_not_hold_is_dropped(
    web: Web, stray: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker, other = web.worker(), web.worker(OTHER)
    await put(web, worker, "r1")
    await put(web, other, "r2")
    speak(worker, stray, Outcome("r1"))
    await web.until(lambda: web.reports)
    assert web.reports == [Outcome("r1")]
    assert "worker-0:1 reported on a request that it does not hold" in caplog.text
    speak(other, Outcome("r2"))
    await web.until(lambda: Outcome("r2") in web.reports)


async def test_what_a_worker_says_of_itself_is_for_its_attendant(web: Web) -> None:
    worker = web.worker()
    said = [Progress("building services"), Ready(), Failed("a service could not be built", "Traceback")]
    speak(worker, *said)
    await web.until(lambda: len(worker.attendant.heard) == 3)
    assert worker.attendant.heard == [(NAME, one) for one in said]
    assert web.reports == []


# ---- a worker's end


async def test_at_a_workers_end_all_that_it_has_left_is_read_then_what_had_begun_then_that_it_is_gone(web: Web) -> None:
    worker = web.worker()
    orders = await put(web, worker, "r1", "r2", "r3")
    for order in orders[:2]:
        worker.table[order.place] = 12.25
    large = Outcome("r1", payload=b"x" * 80_000)
    speak(worker, Chunk("r1", 1, 1, b"1"), large)
    worker.work.sendall(b"".join(frames.report(Outcome("r2", payload=b"x" * 20_000)))[:-1])
    worker.die()
    web.transport.detach(NAME, "died")
    first, second = Begun("r1", 1, NAME, 12.25), Begun("r2", 1, NAME, 12.25)
    assert web.batches == [[first, Chunk("r1", 1, 1, b"1"), large, second, WorkerGone(NAME, "died")]]
    assert [event.kind for event in web.seen.events if event.rid == "r2"] == ["dequeue", "start"]


async def test_what_is_done_for_a_worker_that_is_gone_is_without_effect(web: Web) -> None:
    worker, other = web.worker(), web.worker(OTHER)
    await put(web, worker, "r1")
    web.transport.put(envelope("r2"), NAME)
    web.transport.detach(NAME, "died")
    web.transport.detach(NAME, "died")
    web.transport.put(envelope("r3"), NAME)
    for rid in ("r1", "r2", "r3"):
        assert web.transport.withdraw(rid) is False
        web.transport.cancel(rid)
    web.transport.settle()
    web.transport.finish(NAME)
    await turn()
    assert web.reports == [WorkerGone(NAME, "died")]
    (again,) = await put(web, other, "r1", attempt=2)
    assert again.envelope.attempt == 2


async def test_silence_is_told_once_and_by_no_name_of_a_fault(web: Web) -> None:
    worker = web.worker()
    worker.die()
    await web.until(lambda: worker.attendant.silences)
    await turn()
    web.transport.settle()
    web.transport.detach(NAME, "died")
    assert worker.attendant.silences == [(NAME, "")]
    assert web.reports == [WorkerGone(NAME, "died")]


async def test_a_worker_that_dies_with_orders_unread_is_silent_like_any_other(web: Web) -> None:
    worker = web.worker()
    (order,) = await put(web, worker, "r1")
    web.transport.put(envelope("r2"), NAME)
    await turn()
    worker.table[order.place] = 12.25
    speak(worker, Chunk("r1", 1, 1, b"1"))
    for line in (worker.work, worker.control):
        line.close()  # the other side sees a connection that was reset, of which uvloop's readers are not told
    await web.until(lambda: web.reports)
    web.transport.put(envelope("r3"), NAME)
    web.transport.cancel("r1")
    await turn()
    web.transport.detach(NAME, "died")
    assert worker.attendant.silences == [(NAME, "")]
    assert web.reports == [Begun("r1", 1, NAME, 12.25), Chunk("r1", 1, 1, b"1"), WorkerGone(NAME, "died")]


GARBLED = {
    "a stray print": b"Traceback (most recent call last)",
    "an order": b"".join(frames.plain(Stop())),
    "more than a reply may be": b"".join(frames.report(Outcome("r1", payload=b"x" * (MAX_REPORT + 1))))[:100],
    "a body where none may be": frames.LENGTHS.pack(7, 2) + frames.plain(Ready())[0][8:] + b"{}",
}


@pytest.mark.parametrize("garbage", GARBLED.values(), ids=GARBLED.keys())
async def test_a_worker_that_cannot_be_understood_is_silent_from_then_on(web: Web, garbage: bytes) -> None:
    worker = web.worker()
    await put(web, worker, "r1", "r2")
    first = Outcome("r1")
    worker.work.sendall(b"".join(frames.report(first)) + garbage)
    await web.until(lambda: worker.attendant.silences)
    ((name, why),) = worker.attendant.silences
    assert name == NAME
    assert why.startswith("it sent ")
    speak(worker, Outcome("r2"))
    await turn()
    web.transport.settle()
    web.transport.detach(NAME, "garbled")
    assert web.reports == [first, WorkerGone(NAME, "garbled")]
    assert len(worker.attendant.silences) == 1


async def test_one_workers_end_is_not_anothers(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    worker, other = web.worker(), web.worker(OTHER)
    await put(web, worker, "r1")
    (order,) = await put(web, other, "r2")
    other.table[order.place] = 12.25
    web.transport.detach(NAME, "died")
    assert web.reports == [WorkerGone(NAME, "died")]
    speak(other, Outcome("r2"))
    await web.until(lambda: Outcome("r2") in web.reports)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- the end


async def test_after_close_nothing_goes_either_way_and_workers_see_the_end(web: Web) -> None:
    worker = web.worker()
    await put(web, worker, "r1")
    web.transport.put(envelope("r2"), NAME)
    speak(worker, Outcome("r1"))
    web.transport.close()
    web.transport.close()
    web.transport.put(envelope("r3"), NAME)
    web.transport.settle()
    await turn()
    assert web.batches == []
    for line in (worker.work, worker.control):
        line.settimeout(DEADLINE)
        while line.recv(2**16):
            pass  # orders, and then the end
