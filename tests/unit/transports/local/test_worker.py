"""The worker's side over real sockets: the web side is played by hand, and in the end is the real one."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from offloop.events import Events
from offloop.messages import WINDOW, Begun, Chunk, Freed, Outcome, Withdrawn
from offloop.testing.conformance.web_side import WebSide, eventually, in_threads
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.local import frames
from offloop.transports.local.frames import (
    HEAD_LIMIT,
    Answers,
    Cancel,
    Failed,
    FrameError,
    Grant,
    Progress,
    Reader,
    Ready,
    Stop,
    Withdraw,
    Work,
)
from offloop.transports.local.web import LocalTransport
from offloop.transports.local.worker import AWAKE, LocalSource
from offloop.transports.outcomes import DEBUG_LIMIT
from tests.unit.transports.local.rig import DEADLINE, WorkerSide, envelope, setup

SHORT = 0.01
"""Seconds in which nothing is expected to come."""
LOOPS = 4
ROUNDS = 200


class Worker(WorkerSide):
    """A worker's side whose other end is in the test's hands."""

    def __init__(self) -> None:
        super().__init__(places=ROUNDS * 2)
        self._answers: Reader[Answers] = Reader(Answers, 2**24)
        self._numbers = 0

    def order(self, *orders: Any) -> None:
        """Send them together."""
        self.web_work.sendall(
            b"".join(
                piece
                for order in orders
                for piece in (
                    frames.work(order.envelope, order.place, order.number)
                    if isinstance(order, Work)
                    else frames.plain(order)
                )
            )
        )

    def control_by(self, *controls: Withdraw | Cancel | Grant) -> None:
        self.web_control.sendall(b"".join(frames.plain(one)[0] for one in controls))

    def work_for(self, rid: str = "r1", **fields: Any) -> Work:
        """The next order for it; its place is as its number."""
        self._numbers += 1
        return Work(self._numbers, self._numbers, envelope(rid, **fields))

    def answers(self, count: int = 1) -> list[Answers]:
        """What it has sent, at least so much."""
        self.web_work.settimeout(DEADLINE)
        found: list[Answers] = []
        while len(found) < count:
            came = self._answers.read(self.web_work)
            assert came is not None
            assert self._answers.fault is None
            found += came
        return found


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    worker.order(setup(worker.name))
    worker.serve()
    yield worker
    worker.web_work.close()
    worker.web_control.close()
    worker.close()


def ended(worker: Worker) -> bool:
    return worker.ended.acquire(blocking=False)


class Watched:
    """A socket that notes how it was read, and a clock that goes on by so much with each look at it."""

    def __init__(self, worker: Worker, step: float = 0.0) -> None:
        self.awake = self.asleep = 0
        self.now, self.step = 0.0, step
        self._line = worker.source._work
        worker.source._work = self  # type: ignore[assignment]
        worker.source._clock = self._clock
        worker.source.stays_awake = True

    def _clock(self) -> float:
        self.now += self.step
        return self.now

    def recv_into(self, view: memoryview, size: int, flags: int) -> int:
        if flags:
            self.awake += 1
        else:
            self.asleep += 1
        return self._line.recv_into(view, size, flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)


def took(worker: Worker, *rids: str) -> None:
    """They were sent together, and one loop takes them."""
    worker.order(*map(worker.work_for, rids))
    assert [worker.take().envelope.rid for _ in rids] == list(rids)


# ---- asleep and awake


def test_a_loop_sleeps_until_something_has_come_soon(worker: Worker) -> None:
    line = Watched(worker)
    took(worker, "a")
    assert (line.asleep, line.awake) == (1, 0)
    took(worker, "b")
    took(worker, "c")
    assert (line.asleep, line.awake) == (1, 2)


def test_it_goes_to_sleep_when_nothing_comes_and_stays_so_until_something_comes_soon_again(worker: Worker) -> None:
    line = Watched(worker)
    took(worker, "a")
    line.step = AWAKE / 4
    assert worker.source.get(SHORT) is None
    looked = line.awake
    assert looked in (2, 3)
    assert worker.source.get(SHORT) is None
    assert (line.asleep, line.awake) == (3, looked)
    line.step = 0.0
    took(worker, "b")
    took(worker, "c")
    assert (line.asleep, line.awake) == (4, looked + 1)


def test_what_comes_late_lets_it_sleep(worker: Worker) -> None:
    line = Watched(worker, step=2 * AWAKE)
    took(worker, "a")
    took(worker, "b")
    assert (line.asleep, line.awake) == (2, 0)


def test_where_several_come_at_once_nobody_waits_for_it_alone(worker: Worker) -> None:
    line = Watched(worker)
    took(worker, "a", "b")
    took(worker, "c")
    assert (line.asleep, line.awake) == (2, 0)


def test_it_is_awake_no_longer_than_it_may_wait(worker: Worker) -> None:
    line = Watched(worker)
    took(worker, "a")
    assert worker.source.get(0.0) is None
    assert (line.asleep, line.awake) == (2, 0)


def test_an_end_is_seen_awake(worker: Worker) -> None:
    line = Watched(worker)
    took(worker, "a")
    worker.order(Stop())
    assert worker.source.get(DEADLINE) is None
    assert (line.asleep, line.awake) == (1, 1)
    assert ended(worker)


def test_one_that_is_not_to_stay_awake_sleeps(worker: Worker) -> None:
    line = Watched(worker)
    worker.source.stays_awake = False
    took(worker, "a")
    took(worker, "b")
    assert (line.asleep, line.awake) == (2, 0)


# ---- the setup


@pytest.fixture
def lines() -> Iterator[tuple[socket.socket, LocalSource]]:
    ours, theirs = socket.socketpair()
    rig = WorkerSide()
    with ours, theirs:
        yield ours, LocalSource(theirs, rig.table)
    rig.close()


def test_the_setup_comes_first_however_it_is_cut_up(lines: tuple[socket.socket, LocalSource]) -> None:
    line, source = lines
    came: list[Any] = []
    (data,) = frames.plain(setup("worker-0:1"))

    def send() -> None:
        for start in range(len(data)):
            line.sendall(data[start : start + 1])

    in_threads(lambda: came.append(source.setup()), send)
    assert came == [setup("worker-0:1")]


def test_a_web_process_that_is_gone_before_the_setup_is_an_end_of_file(
    lines: tuple[socket.socket, LocalSource],
) -> None:
    line, source = lines
    line.sendall(frames.plain(setup("worker-0:1"))[0][:-1])
    line.close()
    with pytest.raises(EOFError):
        source.setup()


@pytest.mark.parametrize("data", [frames.plain(Stop())[0], b"GET / HTTP/1.1\r\n\r\n"], ids=["a stop", "garbage"])
def test_anything_else_before_the_setup_is_no_frame(data: bytes, lines: tuple[socket.socket, LocalSource]) -> None:
    line, source = lines
    line.sendall(data)
    with pytest.raises(FrameError):
        source.setup()


# ---- work


def test_an_idle_get_returns_none_and_says_that_it_was_idle(worker: Worker) -> None:
    idle: list[str] = []
    worker.source.idle = lambda: idle.append("idle")
    for timeout in (0.0, SHORT, 0.0):
        assert worker.source.get(timeout) is None
    assert idle == ["idle"] * 3
    assert not ended(worker)


def test_what_comes_together_is_handed_out_in_its_order(worker: Worker) -> None:
    orders = [worker.work_for(f"r{number}", payload=b"x" * 20_000 * (number % 2)) for number in range(6)]
    worker.order(*orders)
    deliveries = [worker.take() for _ in orders]
    assert [delivery.envelope for delivery in deliveries] == [order.envelope for order in orders]
    assert worker.source.get(0.0) is None


def test_a_loop_leaves_what_it_does_not_take_to_one_that_waits(worker: Worker) -> None:
    came: list[ClaimedDelivery] = []
    together = threading.Barrier(LOOPS + 1)

    def loop() -> None:
        together.wait(DEADLINE)
        came.append(worker.take())
        together.wait(DEADLINE)  # it takes no second one: each must come to a loop of its own

    def send() -> None:
        together.wait(DEADLINE)
        worker.order(*[worker.work_for(f"r{number}") for number in range(LOOPS)])
        together.wait(DEADLINE)

    in_threads(send, *[loop] * LOOPS)
    assert sorted(delivery.envelope.rid for delivery in came) == [f"r{number}" for number in range(LOOPS)]


def test_several_loops_take_each_request_once(worker: Worker) -> None:
    orders = [worker.work_for(f"r{number}", payload=b"x" * (number * 100)) for number in range(ROUNDS)]
    begun: list[str] = []

    def loop() -> None:
        while not worker.source._over:
            delivery = worker.source.get(DEADLINE)
            if delivery is not None and delivery.begin():
                begun.append(delivery.envelope.rid)

    def send() -> None:
        for order in orders:
            worker.order(order)
        worker.order(Stop())

    in_threads(send, *[loop] * LOOPS)
    while (delivery := worker.source.get(0.0)) is not None:  # left by loops that looked at the end first
        begun.append(delivery.envelope.rid)
    assert Counter(begun) == Counter(order.envelope.rid for order in orders)


# ---- its end


def test_all_that_came_before_a_stop_is_done_before_the_end(worker: Worker) -> None:
    worker.order(worker.work_for("r1"), worker.work_for("r2"), Stop())
    for rid in ("r1", "r2"):
        assert worker.take().envelope.rid == rid
        assert not ended(worker)
    assert worker.source.get(DEADLINE) is None
    assert ended(worker)


def test_a_stop_alone_is_the_end(worker: Worker) -> None:
    worker.order(worker.work_for("r1"))
    assert worker.take().begin()
    worker.order(Stop())
    assert worker.source.get(DEADLINE) is None
    assert ended(worker)


def test_every_loop_learns_of_the_end(worker: Worker) -> None:
    came: list[ClaimedDelivery | None] = []
    worker.order(worker.work_for("r1"), worker.work_for("r2"), Stop())
    in_threads(*[lambda: came.append(worker.source.get(DEADLINE))] * LOOPS)
    assert sum(delivery is not None for delivery in came) == 2
    assert came.count(None) == LOOPS - 2
    assert ended(worker)


def test_a_web_process_that_has_gone_is_the_end(worker: Worker) -> None:
    worker.order(worker.work_for("r1"))
    worker.web_work.close()
    assert worker.take().begin()
    assert worker.source.get(DEADLINE) is None
    assert ended(worker)


def test_orders_that_cannot_be_understood_end_the_loop(worker: Worker) -> None:
    worker.web_work.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(FrameError):
        worker.source.get(DEADLINE)


def test_controls_that_cannot_be_understood_end_their_reader() -> None:
    rig = WorkerSide()
    rig.web_control.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(FrameError):
        rig.source.control(rig.control)
    rig.close()


# ---- taken back


def test_what_lies_in_the_queue_is_taken_back(worker: Worker) -> None:
    first, second, third = (worker.work_for(rid) for rid in ("r1", "r2", "r3"))
    worker.order(first, second, third)
    assert worker.take().begin()
    worker.control_by(Withdraw("r2", second.number))
    assert worker.answers() == [Withdrawn("r2", begun=False)]
    begun = [delivery.envelope.rid for delivery in (worker.take(), worker.take()) if delivery.begin()]
    assert begun == ["r3"]


def test_a_withdrawal_may_overtake_what_it_is_for(worker: Worker) -> None:
    early, other = worker.work_for("r1"), worker.work_for("r2")
    worker.control_by(Withdraw("r1", early.number))
    assert worker.answers() == [Withdrawn("r1", begun=False)]
    worker.order(early, other)
    assert worker.take().envelope.rid == "r2"
    assert worker.source.get(0.0) is None
    assert worker.source._withdrawn == set()


def test_a_withdrawal_that_overtook_is_not_for_the_same_request_put_again(worker: Worker) -> None:
    early, again = worker.work_for("r1"), worker.work_for("r1")
    worker.control_by(Withdraw("r1", early.number))
    assert worker.answers() == [Withdrawn("r1", begun=False)]
    worker.order(early, again)
    delivery = worker.take()
    assert (delivery.place, delivery.begin()) == (again.place, True)
    assert worker.source.get(0.0) is None


@pytest.mark.parametrize("end", [Outcome("r1"), Freed("r1", 1, "worker-0:1"), None], ids=["ended", "freed", "runs"])
def test_what_has_begun_is_not_taken_back(worker: Worker, end: Outcome | Freed | None) -> None:
    order = worker.work_for("r1")
    worker.order(order)
    assert worker.take().begin()
    if end is not None:
        worker.source.send(end)
        assert worker.answers() == [end]
    worker.control_by(Withdraw("r1", order.number))
    assert worker.answers() == [Withdrawn("r1", begun=True)]


def test_withdrawals_and_beginnings_exclude_each_other(worker: Worker) -> None:
    orders = [worker.work_for(f"r{number}") for number in range(ROUNDS)]
    begun: list[str] = []
    answers: dict[str, bool | None] = {}

    def loop() -> None:
        while not worker.source._over or worker.source._queue:
            delivery = worker.source.get(SHORT)
            if delivery is not None and delivery.begin():
                begun.append(delivery.envelope.rid)

    def send() -> None:
        for order in orders:
            worker.order(order)
        worker.order(Stop())

    def withdraw() -> None:
        for order in reversed(orders):
            worker.control_by(Withdraw(order.envelope.rid, order.number))
            (answer,) = worker.answers()
            assert isinstance(answer, Withdrawn)
            answers[answer.rid] = answer.begun

    in_threads(withdraw, send, loop, loop)
    assert len(begun) == len(set(begun))
    assert {rid for rid, told in answers.items() if told} == set(begun)
    assert len(answers) == ROUNDS


def test_a_cancellation_reaches_what_it_is_for_while_no_loop_reads(worker: Worker) -> None:
    worker.order(worker.work_for("r1"), worker.work_for("r2"))
    first, second = worker.take(), worker.take()
    worker.control_by(Cancel("nobody"), Cancel("r2"))
    eventually(lambda: second.cancelled, "the cancellation")
    assert not first.cancelled


def test_what_was_taken_lets_the_stream_that_it_is_for_go_on(worker: Worker) -> None:
    worker.order(worker.work_for("r1", stream=True), worker.work_for("r2", stream=True))
    first, second = worker.take(), worker.take()
    assert first.spend(WINDOW, 0.0)
    assert second.spend(WINDOW, 0.0)
    worker.control_by(Grant("nobody", 1), Grant("r2", 1))
    assert second.spend(1, DEADLINE)
    assert not first.spend(1, 0.0)


# ---- reports


def test_begun_is_written_to_the_table_and_to_no_socket(worker: Worker) -> None:
    order = worker.work_for("r1")
    worker.order(order)
    worker.take()
    worker.source.send(Begun("r1", 1, worker.name, 12.25))
    assert worker.web_table[order.place] == 12.25
    worker.source.tell(Ready())
    assert worker.answers() == [Ready()]


def test_reports_of_several_threads_do_not_mix(worker: Worker) -> None:
    # Larger than what a socket's buffer takes at once: between two parts of one, another's could come.
    sent = [[Chunk(f"r{sender}", 1, number, bytes([sender]) * 500_000) for number in range(5)] for sender in range(3)]
    came: list[Any] = []

    def send(chunks: list[Chunk]) -> None:
        for chunk in chunks:
            worker.source.send(chunk)

    in_threads(lambda: came.extend(worker.answers(15)), *[lambda chunks=chunks: send(chunks) for chunks in sent])
    for sender, chunks in enumerate(sent):
        assert [chunk for chunk in came if chunk.rid == f"r{sender}"] == chunks


def test_an_outcome_that_is_larger_than_the_web_side_takes_becomes_one_that_says_so(worker: Worker) -> None:
    worker.source.max_report = 100
    fits = Outcome("r1", "invalid-payload", b"x" * 100, started=False, begun_at=1.0, ended_at=2.0)
    large = Outcome("r2", "too-long", b"x" * 101, status=422, begun_at=1.0, ended_at=2.0, worker="w")
    worker.source.send(fits)
    worker.source.send(large)
    assert worker.answers(2) == [fits, Outcome("r2", "node-failed", begun_at=1.0, ended_at=2.0, worker="w")]


@pytest.mark.parametrize("name", ["x" * (HEAD_LIMIT + 1), "r\udce9sum\udce9.pdf"], ids=["long", "no UTF-8"])
@pytest.mark.parametrize("size", [0, 50_000])
def test_an_outcome_whose_labels_cannot_travel_becomes_one_that_says_so(worker: Worker, name: str, size: int) -> None:
    worker.source.send(Outcome("r1", payload=b"x" * size, media_type="text/plain", filename=name, worker="w"))
    assert worker.answers() == [Outcome("r1", "node-failed", worker="w")]


def test_a_chunk_whose_labels_cannot_travel_is_its_senders_failure(worker: Worker) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        worker.source.send(Chunk("r1", 1, 1, b"", filename="r\udce9sum\udce9.pdf"))
    worker.source.send(Outcome("r1", "node-failed"))
    assert worker.answers() == [Outcome("r1", "node-failed")]


def test_of_a_long_traceback_the_end_travels_and_what_is_no_text_is_replaced(worker: Worker) -> None:
    trace = "first" + "x" * DEBUG_LIMIT + "\udce9 last"
    worker.source.send(Outcome("r1", "node-failed", debug=trace))
    worker.source.tell(Failed("line \udce9", trace))
    worker.source.tell(Progress("importing program"))
    outcome, failed, progress = worker.answers(3)
    assert isinstance(outcome, Outcome)
    assert isinstance(failed, Failed)
    assert outcome.debug == failed.trace == "x" * (DEBUG_LIMIT - 6) + "? last"
    assert failed.line == "line ?"
    assert progress == Progress("importing program")


def test_a_web_process_that_has_gone_is_no_error_to_who_reports(worker: Worker) -> None:
    order = worker.work_for("r1")
    worker.order(order)
    worker.take()
    worker.web_work.close()
    for report in (Begun("r1", 1, worker.name, 1.0), Chunk("r1", 1, 1, b""), Outcome("r1"), Freed("r1", 1, "w")):
        worker.source.send(report)
    worker.source.tell(Ready())
    assert worker.source._open == {}


# ---- both sides


def test_a_worker_may_be_told_to_stop_while_it_is_given_work() -> None:
    """What was put before the stop is answered, whichever turn of whichever side comes first."""
    for _ in range(20):
        rig = WorkerSide(places=64)
        with WebSide() as web:
            transport = web.run(_open(rig))
            web.call(transport.subscribe, web.receive)
            rig.serve()
            web.begin(_give, transport, rig.name)
            in_threads(*[_until_the_end(rig)] * 3)
            web.until(lambda reports: sum(isinstance(report, Outcome) for report in reports) == 50, "all outcomes")
            web.call(transport.close)
        rig.close()


async def _open(rig: WorkerSide) -> LocalTransport:
    transport = LocalTransport(asyncio.get_running_loop(), Events(), 2**20)
    rig.attach(transport)
    return transport


def _give(transport: LocalTransport, name: str) -> None:
    for number in range(50):
        transport.put(envelope(f"r{number}", payload=b"x" * 500 * number), name)
    transport.finish(name)


def _until_the_end(rig: WorkerSide) -> Callable[[], None]:
    def run() -> None:
        while not rig.ended.acquire(blocking=False):
            delivery = rig.source.get(DEADLINE)
            if delivery is not None and delivery.begin():
                rig.source.send(Begun(delivery.envelope.rid, 1, rig.name, 1.0))
                rig.source.send(Outcome(delivery.envelope.rid))
        rig.ended.release()

    return run
