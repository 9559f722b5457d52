"""One loop, driven by hand: a real program over the memory transport, on a clock that stands still."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from offloop import errors
from offloop.clock import monotonic
from offloop.context import running
from offloop.events import Event, Events, Kind
from offloop.graph.program import Program
from offloop.messages import FRAME, WINDOW, Begun, Chunk, Envelope, Freed, Outcome, Progressed, Report
from offloop.ports.work import Delivery
from offloop.runners.sync import NOTE_LIMIT, TELL_EVERY, SyncRunner
from offloop.telemetry import logs
from offloop.testing import ManualClock
from offloop.testing.conformance.web_side import eventually
from offloop.transports.memory import MemoryTransport
from tests.unit.runners import program

NOW, DUE = 100.0, 110.0
PROGRAM = Program.load(program.__name__)
DEADLINE = 10.0


class Seen:
    """An observer that keeps what it sees."""

    kinds: frozenset[Kind] = frozenset({"dequeue", "start", "finish"})

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)


class Span:
    """A span that tells its story."""

    def __init__(self, story: list[str], at_the_end: Exception | None = None) -> None:
        self.story = story
        self.at_the_end = at_the_end

    def __enter__(self) -> None:
        self.story.append("enter")

    def end(self, reason: str) -> None:
        self.story.append(reason)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.story.append(f"exit {kind.__name__}" if kind else "exit")
        if self.at_the_end is not None:
            raise self.at_the_end


class Bench:
    """A runner, both ends of its transport, and all that it reported."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock(NOW)
        self.seen = Seen()
        self.reports: list[Report] = []
        self.transport = MemoryTransport(lambda woken: None)
        self.transport.subscribe(self.reports.extend)
        self.services = PROGRAM.services()
        self.services.open()
        self.runner = SyncRunner(
            "loop-1", PROGRAM, self.services, self.transport,
            **{"clock": self.clock, "events": Events([self.seen]), "max_reply": 1000} | options,
        )  # fmt: skip

    def put(self, endpoint: str, payload: bytes = b"{}", **fields: Any) -> Delivery:
        sent = Envelope(**{"rid": "r1", "endpoint": endpoint, "payload": payload, "deadline": DUE} | fields)
        self.transport.put(sent, None)
        delivery = self.transport.get(0.0)
        assert delivery is not None
        return delivery

    def handle(self, endpoint: str, payload: bytes = b"{}", **fields: Any) -> list[Report]:
        """One request from its claim to its outcome; returns what was reported of it."""
        self.runner.handle(self.put(endpoint, payload, **fields))
        return self.told()

    def told(self) -> list[Report]:
        """All that was sent since, as it was sent: a transport may leave out a "begun" beside its outcome."""
        told = list(self.transport._reports)
        self.transport._reports.clear()
        return told

    def outcome(self, endpoint: str, payload: bytes = b"{}", **fields: Any) -> Outcome:
        begun, outcome = self.handle(endpoint, payload, **fields)
        assert isinstance(begun, Begun)
        assert isinstance(outcome, Outcome)
        return outcome


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.services.close()


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what a node does."""
    return lambda name, what: monkeypatch.setitem(program.script, name, what)


def raises(failure: BaseException | type[BaseException]) -> Callable[..., None]:
    def act(*args: Any) -> None:
        raise failure

    return act


# ---- the straight way


def test_a_reply_is_reported_after_its_begun_with_when_and_by_whom(bench: Bench, does: Any) -> None:
    does("plain", lambda order, job: bench.clock.advance(2.0))
    begun, outcome = bench.handle("plain", b'{"name": "x"}', attempt=3)
    assert begun == Begun("r1", 3, "loop-1", NOW)
    assert outcome == Outcome(
        rid="r1", payload=b'{"text":"x"}', attempt=3, started=True, begun_at=NOW, ended_at=NOW + 2, worker="loop-1"
    )


def test_begun_is_visible_before_the_node_is_called(bench: Bench, does: Any) -> None:
    before: list[list[Report]] = []
    does("plain", lambda order, job: before.append(bench.told()))
    bench.handle("plain")
    assert before == [[Begun("r1", 1, "loop-1", NOW)]]


def test_a_blob_travels_with_its_type_and_name(bench: Bench) -> None:
    outcome = bench.outcome("blob", b"abc", form="raw", media_type="text/x", filename="a.txt")
    assert (outcome.payload, outcome.media_type, outcome.filename) == (b"cba", "text/x", "a.txt")


def test_a_node_may_ask_for_its_job(bench: Bench, does: Any) -> None:
    jobs: list[Any] = []
    does("plain", lambda order, job: jobs.append((job.rid, job.request_id, job.remaining, job.cancelled)))
    bench.handle("plain", request_id="label")
    assert jobs == [("r1", "label", DUE - NOW, False)]


def test_events_tell_of_the_beginning_and_the_end(bench: Bench) -> None:
    bench.handle("plain", attempt=2)
    expected = {"rid": "r1", "endpoint": "plain", "attempt": 2, "deadline": DUE, "worker": "loop-1"}
    assert bench.seen.events == [
        Event(t=NOW, kind="dequeue", **expected),
        Event(t=NOW, kind="start", **expected),
        Event(t=NOW, kind="finish", outcome="ok", size=13, **expected),
    ]


# ---- what may not begin


@pytest.mark.parametrize("deadline", [NOW, NOW - 1])
def test_a_late_envelope_is_left_for_the_web_side_to_take_back(bench: Bench, deadline: float) -> None:
    assert bench.handle("plain", deadline=deadline) == []
    assert bench.seen.events == []
    assert bench.transport.withdraw("r1")


def test_what_was_withdrawn_is_passed_over_in_silence(bench: Bench) -> None:
    delivery = bench.put("plain")
    assert bench.transport.withdraw("r1")
    bench.runner.handle(delivery)
    assert bench.told() == []
    assert bench.seen.events == []


# ---- failures end their request, and not the loop


def test_a_payload_that_does_not_validate_is_the_callers_fault(bench: Bench) -> None:
    outcome = bench.outcome("plain", b'{"name": 1}')
    assert (outcome.reason, outcome.status, outcome.started) == ("invalid-payload", 0, False)
    assert [error["loc"] for error in json.loads(outcome.payload)] == [["body", "name"]]


def test_a_payload_that_is_no_text_at_all_is_the_callers_fault(bench: Bench) -> None:
    outcome = bench.outcome("plain", b'{"name": "\xff\xfe"}')
    assert outcome.reason == "invalid-payload"
    assert json.loads(outcome.payload)


def test_a_problem_ends_the_request_with_all_it_says(bench: Bench, does: Any, caplog: pytest.LogCaptureFixture) -> None:
    does("plain", raises(program.Refused("Not today", pages=900)))
    outcome = bench.outcome("plain")
    assert (outcome.reason, outcome.status, outcome.debug) == ("refused", 409, None)
    assert json.loads(outcome.payload) == {
        "title": "It was refused", "detail": "Not today", "members": {"pages": 900},
    }  # fmt: skip
    assert caplog.records == []


FAILURES = [
    ValueError("boom"), SystemExit(3), KeyboardInterrupt(), StopIteration("x"), StopAsyncIteration(), GeneratorExit(),
    MemoryError(), RecursionError(), BaseException(), errors.NodeFailed(), errors.UsageError("x"), errors.QueueFull(),
    ExceptionGroup("several", [ValueError("a")]), TimeoutError(), program.Forgetful(),
]  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "lent", "parts", "send"])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_whatever_a_node_raises_ends_its_request_and_not_the_loop(
    bench: Bench, does: Any, caplog: pytest.LogCaptureFixture, name: str, failure: BaseException
) -> None:
    endpoint = {"parts": "pieces", "send": "sent"}.get(name, name)
    does(name, raises(failure))
    outcome = bench.outcome(endpoint)
    assert (outcome.reason, outcome.started, outcome.payload, outcome.debug) == ("node-failed", True, b"", None)
    assert outcome.last
    assert [(record.name, record.message) for record in caplog.records] == [
        ("offloop.nodes", f"{endpoint}: the work failed")
    ]
    program.script.clear()
    assert bench.outcome("plain").reason == "ok"


def test_a_recursion_without_end_ends_its_request(bench: Bench, does: Any) -> None:
    def deeper(*args: Any) -> None:
        deeper()

    does("plain", deeper)
    assert bench.outcome("plain").reason == "node-failed"


class Unwritable:
    """An iterable whose items cannot be had."""

    def __iter__(self) -> Iterator[int]:
        raise LookupError("no items")


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize("member", [object(), {1, object()}, b"\xff", ITSELF, Unwritable()])
def test_a_problem_that_cannot_be_written_is_a_failed_node(
    bench: Bench, does: Any, caplog: pytest.LogCaptureFixture, member: object
) -> None:
    does("plain", raises(program.Refused(member=member)))
    assert bench.outcome("plain").reason == "node-failed"
    assert "Refused has a member that cannot be written as JSON" in caplog.text


def test_numbers_that_json_has_not_are_null_in_a_problem_and_in_errors(bench: Bench, does: Any) -> None:
    does("plain", raises(program.Refused(limit=float("inf"))))
    assert json.loads(bench.outcome("plain").payload)["members"] == {"limit": None}
    [error] = json.loads(bench.outcome("plain", b'{"name": NaN}').payload)
    assert error["input"] is None


@pytest.mark.parametrize("emitted", [program.Order(), program.Part(number=1), object(), 7])
def test_a_message_that_was_not_declared_is_a_failed_node(
    bench: Bench, does: Any, caplog: pytest.LogCaptureFixture, emitted: object
) -> None:
    does("wrong", lambda: emitted)
    assert bench.outcome("wrong").reason == "node-failed"
    assert f"it emitted a {type(emitted).__name__}" in caplog.text


@pytest.mark.parametrize("text", ["x" * 1000, "\udce4"])
def test_a_reply_that_is_too_large_or_cannot_be_written_is_a_failed_node(bench: Bench, does: Any, text: str) -> None:
    does("plain", lambda order, job: program.Done.model_construct(text=text))
    outcome = bench.outcome("plain")
    assert (outcome.reason, outcome.payload) == ("node-failed", b"")


def test_a_reply_of_just_the_largest_size_is_sent(does: Any) -> None:
    bench = Bench(max_reply=len(b'{"text":"1234"}'))
    does("plain", lambda order, job: program.Done(text="1234"))
    assert bench.outcome("plain").reason == "ok"
    does("plain", lambda order, job: program.Done(text="12345"))
    assert bench.outcome("plain").reason == "node-failed"


def test_work_that_runs_out_has_no_reply(bench: Bench) -> None:
    outcome = bench.outcome("empty")
    assert (outcome.reason, outcome.started, outcome.last) == ("no-reply", True, True)


def test_a_service_that_fails_fails_the_request(bench: Bench, does: Any) -> None:
    does("lend", raises(ValueError("nothing to lend")))
    assert bench.outcome("lent").reason == "node-failed"


def test_an_endpoint_that_nobody_knows_is_a_failure_and_not_the_end_of_the_loop(bench: Bench) -> None:
    assert bench.outcome("of another version").reason == "node-failed"


def test_a_log_filter_that_raises_is_not_the_end_of_the_loop(
    bench: Bench, does: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("offloop.nodes")
    broken = raises(LookupError("the filter is broken"))
    does("plain", raises(ValueError))
    logger.addFilter(broken)
    try:
        assert bench.outcome("plain").reason == "node-failed"
    finally:
        logger.removeFilter(broken)
    assert "the filter is broken" in capsys.readouterr().err


# ---- nobody waits any more


def test_a_request_cancelled_while_it_runs_frees_its_loop_and_has_no_outcome(bench: Bench, does: Any) -> None:
    sends: list[str] = []
    does("write", lambda: bench.transport.cancel("r1"))
    does("send", lambda: sends.append("sent"))
    assert bench.handle("sent") == [Begun("r1", 1, "loop-1", NOW), Freed("r1", 1, "loop-1")]
    assert sends == []
    assert bench.seen.events[-1].outcome == "cancelled"


def test_a_node_that_claims_a_cancellation_nobody_made_has_failed(bench: Bench, does: Any) -> None:
    does("plain", raises(errors.Cancelled()))
    assert bench.outcome("plain").reason == "node-failed"


def test_a_deadline_that_passes_between_two_nodes_ends_the_request(bench: Bench, does: Any) -> None:
    sends: list[str] = []
    does("write", lambda: bench.clock.move_to(DUE))
    does("send", lambda: sends.append("sent"))
    outcome = bench.outcome("sent")
    assert (outcome.reason, outcome.started) == ("deadline-exceeded", True)
    assert sends == []


def test_a_node_that_claims_a_deadline_that_has_not_come_has_failed(bench: Bench, does: Any) -> None:
    does("plain", raises(errors.DeadlineExceeded()))
    assert bench.outcome("plain").reason == "node-failed"


# ---- stream messages


def test_a_caller_that_streams_gets_each_message_as_it_comes_and_then_the_reply(bench: Bench, does: Any) -> None:
    told: list[list[Report]] = []
    does("parts", lambda number: told.append(bench.told()))
    reports = bench.handle("pieces", stream=True, attempt=2)
    assert told == [
        [Begun("r1", 2, "loop-1", NOW), Chunk("r1", 2, 1, b'{"number":1}')],
        [Chunk("r1", 2, 2, b'{"number":2}')],
    ]
    # The generator is closed after its reply, so that the loop is free a little later.
    assert [type(report) for report in reports] == [Outcome, Freed]


def test_a_caller_that_does_not_stream_gets_the_reply_alone(bench: Bench) -> None:
    assert [type(report) for report in bench.handle("pieces")] == [Begun, Outcome, Freed]


def test_a_stream_message_that_is_too_large_is_a_failed_node() -> None:
    bench = Bench(max_reply=5)
    _, outcome = bench.handle("pieces", stream=True)
    assert isinstance(outcome, Outcome)
    assert outcome.reason == "node-failed"


class Flood:
    """A node that makes stream messages as long as it may, in a loop of its own. What it does is noted."""

    def __init__(self, does: Any, sizes: Callable[[int], int], deadline: float = 60.0) -> None:
        self.bench = Bench(max_reply=2**24, clock=monotonic)
        self.made = 0
        self.closed_by: list[str] = []
        self.sizes = sizes
        does("flood", self._make)
        does("flooded", lambda: self.closed_by.append(threading.current_thread().name))
        self.delivery: Any = self.bench.put("slabs", stream=True, deadline=monotonic() + deadline)
        self.loop = threading.Thread(target=self.bench.runner.handle, args=(self.delivery,), name="loop", daemon=True)
        self.loop.start()

    def _make(self, job: Any) -> int:
        size = self.sizes(self.made)
        self.made += 1 if size else 0
        return size

    @property
    def waiting(self) -> bool:
        """Whether it waits for its caller to take something."""
        return bool(self.delivery._credit._changed._waiters)

    def until_waiting(self) -> None:
        eventually(lambda: self.waiting, "a loop that waits")

    def ended(self) -> list[Report]:
        self.loop.join(DEADLINE)
        assert not self.loop.is_alive()
        assert self.closed_by == ["loop"]
        return self.bench.told()

    @staticmethod
    def weight(size: int) -> int:
        return len(program.Slab(text="x" * size).model_dump_json()) + FRAME


def test_a_flood_stops_when_the_window_is_full_and_goes_on_as_it_is_taken(does: Any) -> None:
    flood = Flood(does, lambda made: 50_000 if made < 100 else 0)
    each = Flood.weight(50_000)
    fits = -(-WINDOW // each)  # the last may go beyond
    flood.until_waiting()
    assert flood.made == fits + 1  # one is made, and waits
    flood.bench.transport.grant("r1", each)
    eventually(lambda: flood.made == fits + 2, "one more")
    flood.until_waiting()
    flood.bench.transport.grant("r1", 100 * each)
    told = flood.ended()
    assert [report.number for report in told if isinstance(report, Chunk)] == list(range(1, 101))
    assert [type(report) for report in told[-2:]] == [Outcome, Freed]


def test_small_messages_count_for_more_than_their_bytes(does: Any) -> None:
    flood = Flood(does, lambda made: 1)
    flood.until_waiting()
    assert flood.made == -(-WINDOW // Flood.weight(1)) + 1
    flood.bench.transport.cancel("r1")
    flood.ended()


def test_one_message_may_be_larger_than_the_whole_window(does: Any) -> None:
    flood = Flood(does, lambda made: 3 * WINDOW if made < 2 else 0)
    flood.until_waiting()
    assert flood.made == 2
    flood.bench.transport.grant("r1", Flood.weight(3 * WINDOW))
    assert [type(report) for report in flood.ended()] == [Begun, Chunk, Chunk, Outcome, Freed]


def test_a_cancellation_ends_the_wait_and_closes_the_generator_in_its_own_thread(does: Any) -> None:
    flood = Flood(does, lambda made: 2 * WINDOW)
    flood.until_waiting()
    flood.bench.transport.cancel("r1")
    assert [type(report) for report in flood.ended()] == [Begun, Chunk, Freed]
    assert flood.bench.seen.events[-1].outcome == "cancelled"


def test_the_deadline_ends_the_wait(does: Any) -> None:
    flood = Flood(does, lambda made: 2 * WINDOW, deadline=0.1)
    begun, chunk, outcome = flood.ended()
    assert [type(begun), type(chunk)] == [Begun, Chunk]
    assert isinstance(outcome, Outcome)
    assert (outcome.reason, outcome.started) == ("deadline-exceeded", True)


def test_a_message_that_is_made_after_the_deadline_is_not_sent(bench: Bench, does: Any) -> None:
    def late(job: Any) -> int:
        bench.clock.move_to(DUE)
        return 1

    does("flood", late)
    delivery: Any = bench.put("slabs", stream=True)
    assert delivery._credit.spend(WINDOW, 0.0)
    bench.runner.handle(delivery)
    _, outcome = bench.told()
    assert isinstance(outcome, Outcome)
    assert outcome.reason == "deadline-exceeded"


# ---- progress


def reported(bench: Bench, does: Any, *calls: tuple[float, tuple[Any, ...]], stream: bool = True) -> list[Report]:
    """What is told of the progress that a node reports, so many seconds after the call before each."""

    def report(order: Any, job: Any) -> None:
        for after, said in calls:
            bench.clock.advance(after)
            job.progress(*said)

    does("plain", report)
    return [report for report in bench.handle("plain", stream=stream, attempt=2) if isinstance(report, Progressed)]


def test_progress_is_told_to_a_caller_that_streams(bench: Bench, does: Any) -> None:
    assert reported(bench, does, (0.0, (3, 7, "page 3"))) == [Progressed("r1", 2, 3.0, 7.0, "page 3")]


def test_progress_is_not_told_to_a_caller_that_does_not_stream(bench: Bench, does: Any) -> None:
    assert reported(bench, does, (0.0, (3, 7, "page 3")), stream=False) == []


def test_progress_is_told_now_and_then_and_when_all_is_done(bench: Bench, does: Any) -> None:
    often = [(TELL_EVERY / 4, (number, 9)) for number in range(10)]
    told = reported(bench, does, *often, (0.0, (9, 9)))
    assert [report.done for report in told if isinstance(report, Progressed)] == [0.0, 4.0, 8.0, 9.0]


def test_what_is_done_again_and_again_is_told_now_and_then_as_well(bench: Bench, does: Any) -> None:
    told = reported(bench, does, *[(TELL_EVERY / 8, (number, number)) for number in range(17)])
    assert [report.done for report in told if isinstance(report, Progressed)] == [0.0, 8.0, 16.0]


def test_any_number_and_any_note_can_be_told(bench: Bench, does: Any) -> None:
    told = reported(bench, does, (0.0, (Fraction(1, 2), 2**70, "\udce4" + "x" * 2 * NOTE_LIMIT)), (1.0, (0.25,)))
    assert told == [Progressed("r1", 2, 0.5, 2.0**70, "?" + "x" * (NOTE_LIMIT - 1)), Progressed("r1", 2, 0.25)]
    assert [msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Progressed) for one in told] == told


# ---- after the reply


def test_work_after_the_reply_is_followed_by_freed(bench: Bench, does: Any) -> None:
    told: list[list[Report]] = []
    does("keep", lambda: told.append(bench.told()))
    reports = bench.handle("noted")
    [(begun, outcome)] = told
    assert isinstance(begun, Begun)
    assert isinstance(outcome, Outcome)
    assert (outcome.reason, outcome.last) == ("ok", False)
    assert reports == [Freed("r1", 1, "loop-1")]
    assert [event.kind for event in bench.seen.events] == ["dequeue", "start", "finish"]


@pytest.mark.parametrize("name", ["keep", "closing"])
@pytest.mark.parametrize("failure", [ValueError("late"), SystemExit(), program.Refused()])
def test_a_failure_after_the_reply_changes_nothing_for_the_caller(
    bench: Bench, does: Any, caplog: pytest.LogCaptureFixture, name: str, failure: BaseException
) -> None:
    does(name, raises(failure))
    _, outcome, freed = bench.handle("noted")
    assert isinstance(outcome, Outcome)
    assert (outcome.reason, outcome.last) == ("ok", False)
    assert freed == Freed("r1", 1, "loop-1")
    assert len(caplog.records) == 1


def test_the_request_scope_is_closed_before_the_loop_is_free(bench: Bench, does: Any) -> None:
    told: list[list[Report]] = []
    does("return", lambda: told.append(bench.told()))
    reports = bench.handle("lent")
    assert told == [[Begun("r1", 1, "loop-1", NOW)]]
    assert [type(report) for report in reports] == [Outcome]


def test_a_scope_that_fails_at_its_end_changes_nothing_for_the_caller(bench: Bench, does: Any) -> None:
    does("return", raises(ValueError("not returned")))
    assert bench.outcome("lent").reason == "ok"


def test_a_span_that_fails_at_its_end_changes_nothing_for_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    def broken(envelope: Envelope) -> Span:
        return Span([], at_the_end=ValueError(f"no end of {envelope.rid}"))

    assert Bench(spans=broken).outcome("plain").reason == "ok"
    assert "plain: failed after its reply" in caplog.text
    assert "no end of r1" in caplog.text


# ---- what is told to whom


@pytest.mark.parametrize("failure", [ValueError("boom"), program.Refused()])
def test_only_under_debug_does_an_outcome_carry_the_traceback(does: Any, failure: Exception) -> None:
    does("plain", raises(failure))
    assert Bench(debug=False).outcome("plain").debug is None
    debug = Bench(debug=True).outcome("plain").debug
    assert debug is not None
    assert debug.startswith("Traceback")
    assert type(failure).__name__ in debug


def test_log_records_of_nodes_and_of_their_failures_carry_the_request(
    bench: Bench, does: Any, caplog: pytest.LogCaptureFixture
) -> None:
    does("keep", raises(ValueError))
    logs.install()
    try:
        with caplog.at_level(logging.INFO):
            bench.handle("noted", request_id="label-7")
            does("plain", raises(ValueError))
            bench.handle("plain", request_id="label-8")
            logging.getLogger("user.nodes").info("outside")
    finally:
        logs.uninstall()
    labels = [(getattr(each, "request_id", None), getattr(each, "endpoint", None)) for each in caplog.records]
    assert labels == [("label-7", "noted"), ("label-7", "noted"), ("label-8", "plain"), (None, None)]


def test_the_context_names_the_request_that_runs_and_no_other(bench: Bench, does: Any) -> None:
    seen: list[Envelope | None] = []
    does("plain", lambda order, job: seen.append(running.get()))
    bench.handle("plain", request_id="label")
    assert [envelope.request_id for envelope in seen if envelope] == ["label"]
    assert running.get() is None


@pytest.mark.parametrize(
    ("endpoint", "act", "story"),
    [
        ("plain", None, ["enter", "ok", "exit"]),
        ("plain", ValueError(), ["enter", "exit ValueError"]),
        ("plain", program.Refused(), ["enter", "exit Refused"]),
        ("empty", None, ["enter", "no-reply", "exit"]),
    ],
)
def test_spans_are_around_the_nodes_and_see_how_it_went(
    does: Any, endpoint: str, act: Exception | None, story: list[str]
) -> None:
    told: list[str] = []
    if act is not None:
        does(endpoint, raises(act))
    Bench(spans=lambda _: Span(told)).handle(endpoint)
    assert told == story


# ---- the loop itself


def test_a_loop_takes_one_request_after_the_other_until_it_is_stopped(does: Any) -> None:
    bench = Bench(clock=monotonic)
    served = threading.Semaphore(0)
    does("plain", lambda order, job: served.release())
    thread = threading.Thread(target=bench.runner.run, args=(bench.transport,), daemon=True)
    thread.start()
    for number in range(3):
        bench.transport.put(
            Envelope(rid=f"r{number}", endpoint="plain", payload=b"{}", deadline=monotonic() + 60), None
        )
    for _ in range(3):
        assert served.acquire(timeout=DEADLINE)
    bench.transport.nudge(1)  # woken for nothing, it goes on
    bench.transport.put(Envelope(rid="r3", endpoint="plain", payload=b"{}", deadline=monotonic() + 60), None)
    assert served.acquire(timeout=DEADLINE)
    bench.runner.stop()
    bench.transport.nudge(1)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert [report.rid for report in bench.told() if isinstance(report, Outcome)] == ["r0", "r1", "r2", "r3"]


def test_a_loop_that_was_stopped_takes_nothing_more(bench: Bench) -> None:
    bench.transport.put(Envelope(rid="r1", endpoint="plain", payload=b"{}", deadline=DUE), None)
    bench.runner.stop()
    bench.runner.run(bench.transport)
    assert bench.told() == []
