"""The gateway: applies what `core/` decides to waiters, transports and the crew.

Owns the way of a request on the web side, from its arrival to its one outcome, and the timer that watches deadlines,
wedged loops and the drain. It knows no web framework and no asyncio: a waiter's promise is anything with `done()` and
`set_result()`, time and timers are given. It is touched on one event loop only, and it never awaits; that is what makes
its counts exact. No policy may enter: a question of who, whether or in what order belongs to `core/`.

It is longer than most files because the whole way of a request is to be read in one place.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from offloop import errors
from offloop.clock import Clock
from offloop.core.admission import CAPACITY, Admission
from offloop.core.backlog import Backlog
from offloop.core.crew import ANYONE, STUCK, Crew
from offloop.core.distant import Distant
from offloop.core.drain import Drain, Step
from offloop.core.lifecycle import READY, Lifecycle, Move, State
from offloop.core.policy import Policy
from offloop.core.waiters import Phase, Waiter, Waiters, either
from offloop.events import STOPPED, WEDGED, Event, Events
from offloop.ingress.turns import Turns
from offloop.messages import (
    FRAME,
    WINDOW,
    Begun,
    Chunk,
    Envelope,
    Form,
    Freed,
    Linked,
    Outcome,
    Progressed,
    Refused,
    Report,
    Requeued,
    Staffed,
    Taken,
    Withdrawn,
    WorkerGone,
    WorkerUp,
)
from offloop.ports.service import Timer, Timers
from offloop.ports.work import WorkSink

log = logging.getLogger("offloop")

ANSWER_WITHIN = 0.03
"""Seconds that a transport has to answer a withdrawal before the waiter ends without knowing whether it had begun."""
ENDLESS = 2**62
"""Bytes of stream messages for whoever need not wait any more."""
LAG = 0.01
"""A timer that is later than this is evidence of a blocked event loop."""


class Promise(Protocol):
    """What a waiter is told by; an `asyncio.Future`, or anything like it."""

    def done(self) -> bool: ...
    def set_result(self, outcome: Outcome, /) -> Any: ...


class Replacer(Protocol):
    """The part of a workforce that the gateway calls."""

    def replace(self, worker: str) -> None: ...


class Gateway:
    """One web process's way in. See `open`, `send`, `cancel`, `close`; the rest is for whoever assembles it.

    Attributes:
        promise: makes an empty promise of this gateway's event loop; cheaper than to ask which loop is running.
        turns: those of this event loop, shared by all that goes on for long on it.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        *,
        clock: Clock,
        timers: Timers,
        rid: Callable[[], str],
        sink: WorkSink,
        crew: Crew | Distant,
        workforce: Replacer,
        drain: Drain,
        events: Events,
        queue_limit: int,
        queue_bytes: int,
        max_deliveries: int = 3,
        reply_to: str = "",
        promise: Callable[[], Any] = lambda: None,
        drained: Callable[[], None] = lambda: None,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self.policies = policies
        self.lifecycle = Lifecycle()
        self.waiters = Waiters()
        self.backlog = Backlog()
        self.crew = crew
        self.drain = drain
        self.cut = 0
        self.refused = 0
        self.unsent = 0
        self.turns = Turns()
        self._queued = 0
        self.promise = promise
        self._clock = clock
        self._timers = timers
        self._rid = rid
        self._sink = sink
        self._workforce = workforce
        self._max_deliveries = max_deliveries
        self._reply_to = reply_to
        self._drained = drained
        self._answered = answered
        self._admission = Admission(
            self.lifecycle, self.waiters, self.backlog, crew,
            queue_limit=queue_limit, queue_bytes=queue_bytes, now=clock(),
        )  # fmt: skip
        self._judged_elsewhere = isinstance(crew, Distant)
        self._timer: Timer | None = None
        self._look_at = float("inf")
        self._events = events
        self._on_arrive, self._on_admit = events.of("arrive"), events.of("admit")
        self._on_waiter_add, self._on_waiter_del = events.of("waiter_add"), events.of("waiter_del")
        self._on_enqueue, self._on_terminal = events.of("enqueue"), events.of("terminal")
        self._apply: dict[type[Any], Callable[[Any], None]] = {
            Begun: self._begun,
            Chunk: self._chunk,
            Progressed: self._progressed,
            Outcome: self._outcome,
            Freed: self._freed,
            Withdrawn: self._withdrawn,
            Refused: self._refused,
            Taken: self._taken,
            Requeued: self._requeued,
            Linked: self._linked,
            Staffed: self._staffed,
            WorkerUp: self._worker_up,
            WorkerGone: self._worker_gone,
        }

    # ---- the way in

    def open(
        self,
        endpoint: str,
        promise: Promise,
        *,
        request_id: str = "",
        timeout: float | None = None,
        declared: int = 0,
        acceptable: bool = True,
        crowded: bool = False,
    ) -> Waiter:
        """Admit a request before its body is read, and reserve its place; or raise the error that refuses it.

        Args:
            endpoint: its name.
            promise: gets the outcome, once.
            request_id: the caller's label.
            timeout: seconds; shortens the endpoint's, never lengthens it.
            declared: the body's declared bytes, 0 where it does not say.
            acceptable: whether the body's media type is one that the endpoint takes.
            crowded: whether whoever asks has as many in flight as one may.
        """
        now = self._clock()
        policy = self.policies[endpoint]
        rid = self._rid()
        for see in self._on_arrive:
            see(Event(t=now, kind="arrive", rid=rid, endpoint=endpoint, request_id=request_id))
        refusal = self._admission.judge(policy, declared, acceptable, now, crowded)
        if refusal in CAPACITY:
            # A loop may have begun or ended something that this side has not read yet: look before refusing.
            self._sink.settle()
            now = self._clock()
            refusal = self._admission.judge(policy, declared, acceptable, now, crowded)
        if refusal is not None:
            raise self._reject(rid, policy, request_id, refusal, now)
        # In this order, so that a timeout that is no number is passed over.
        seconds = policy.timeout if timeout is None else max(0.0, min(policy.timeout, timeout))
        waiter = Waiter(rid, policy, promise, now, now + seconds, request_id, declared)
        self.waiters.add(waiter)
        self.backlog.reserve(rid, declared)
        if self._judged_elsewhere:
            waiter.admitted = False
        elif self._on_admit:
            self._admit(waiter)
        for see in self._on_waiter_add:
            see(Event(t=now, kind="waiter_add", rid=rid, endpoint=endpoint, deadline=waiter.deadline))
        if waiter.deadline < self._look_at:
            self._look(waiter.deadline)
        return waiter

    def _admit(self, waiter: Waiter) -> None:
        """Tell that it was admitted, at its arrival, whenever that is known."""
        waiter.admitted = True
        policy = waiter.policy
        for see in self._on_admit:
            see(
                Event(
                    t=waiter.admitted_at, kind="admit", rid=waiter.rid, endpoint=policy.name,
                    request_id=waiter.request_id, deadline=waiter.deadline, limit=policy.max_in_flight,
                    idempotent=policy.idempotent, finishes=policy.finishes,
                )
            )  # fmt: skip

    def grow(self, waiter: Waiter, total: int) -> None:
        """`total` bytes of its body have arrived. Raises PayloadTooLarge or QueueFull, the waiter having ended."""
        if waiter.phase is not Phase.UPLOADING or total <= waiter.size:
            return
        refusal = self._admission.outgrown(waiter.policy, waiter.size, total)
        if refusal in CAPACITY:
            self._sink.settle()
            refusal = self._admission.outgrown(waiter.policy, waiter.size, total)
        if refusal is None:
            self.backlog.resize(waiter.rid, total)
            waiter.size = total
            return
        now = self._clock()
        error = self._error(waiter.policy, waiter.request_id, refusal, now)
        waiter.promise = None  # the caller is told by the exception
        self._end(waiter, Outcome(rid=waiter.rid, reason=refusal.reason, started=False), now)
        raise error

    def send(
        self,
        waiter: Waiter,
        payload: bytes,
        *,
        form: Form = "json",
        media_type: str | None = None,
        filename: str | None = None,
        fields: tuple[tuple[str, str, str], ...] = (),
        trace: tuple[tuple[str, str], ...] = (),
        stream: bool = False,
    ) -> None:
        """The body is complete: enqueue. Raises as `grow` does. Without effect if the waiter has ended meanwhile."""
        if len(payload) != waiter.size:
            self.grow(waiter, len(payload))
        if waiter.phase is not Phase.UPLOADING:
            return
        rid = waiter.rid
        envelope = Envelope(
            rid=rid, endpoint=waiter.policy.name, payload=payload, deadline=waiter.deadline, form=form,
            media_type=media_type, filename=filename, fields=fields, request_id=waiter.request_id,
            reply_to=self._reply_to, trace=trace, attempt=1, stream=stream,
        )  # fmt: skip
        if len(payload) < waiter.size:
            self.backlog.resize(rid, len(payload))
            waiter.size = len(payload)
        self._queued += 1
        waiter.order = self._queued
        waiter.phase = Phase.QUEUED
        waiter.envelope = envelope
        for see in self._on_enqueue:
            see(Event(t=self._clock(), kind="enqueue", rid=rid, endpoint=waiter.policy.name, deadline=waiter.deadline))
        if not self.backlog.line and (name := self.crew.place(envelope.endpoint)) is not None:
            self._hand(envelope, name)  # nobody is before it
        else:
            self.backlog.enqueue(envelope)

    def withdraw(self, waiter: Waiter) -> None:
        """The caller wants it no more, and stays to hear how it ended: by an outcome like any other.

        That is `cancelled` but where another is there already. A moment may pass until it is known whether it had
        begun. Without effect where it is ending anyway.
        """
        if waiter.phase < Phase.RECALLED and waiter.promise is not None:
            now = self._clock()
            self._events.emit(now, "disconnect", rid=waiter.rid, endpoint=waiter.endpoint, outcome="cancelled")
            self._call_off(waiter, now)

    def cancel(self, waiter: Waiter, cause: str) -> None:
        """The caller has gone (`disconnect`) or wants to hear no more of it (`cancelled`).

        Under `on_disconnect="finish"` a caller's leaving is no cancellation: once the body is complete the request
        goes on without anyone being told.
        """
        if waiter.phase is Phase.ENDED or waiter.promise is None:
            return
        now = self._clock()
        self._events.emit(now, "disconnect", rid=waiter.rid, endpoint=waiter.endpoint, outcome=cause)
        waiter.promise = None
        if cause == "disconnect" and waiter.policy.finishes and waiter.phase is not Phase.UPLOADING:
            if waiter.hears is not None:  # nobody takes any more, and it is not to wait for that
                waiter.hears = None
                self._sink.grant(waiter.rid, ENDLESS)
            return
        self._call_off(waiter, now)

    def _call_off(self, waiter: Waiter, now: float) -> None:
        self._sink.settle()
        if self.waiters.get(waiter.rid) is None:
            return  # its outcome had come already
        self._take_down(waiter, "cancelled", now)
        self._dispatch()

    def close(self, waiter: Waiter) -> None:
        """For a `finally`, after the answer was sent: a waiter that has not ended is cancelled."""
        if waiter.phase is not Phase.ENDED:
            self.cancel(waiter, "cancelled")
        elif waiter.told:
            waiter.told = False
            self.unsent -= 1
            if not self.unsent and self.lifecycle.state is State.DRAINED:
                self._answered()

    # ---- out to the workers

    def _dispatch(self) -> None:
        backlog, crew = self.backlog, self.crew
        while (first := backlog.first()) is not None and (name := crew.place(first.endpoint)) is not None:
            self._hand(backlog.take(), name)
        if crew.reads_ahead:  # something lies with a busy worker: is a loop free elsewhere, or may one come to be?
            if backlog.line:
                self._look(self._clock() + STUCK)
            else:
                self._watch_crew()

    def _hand(self, envelope: Envelope, name: str) -> None:
        if name == ANYONE:
            self._sink.put(envelope, None)
        else:
            self._sink.put(envelope, name)  # first: while it is on its way there is time for the rest
            self.crew.hand(envelope.rid, name, envelope.endpoint, self._clock())

    def _recall(self, waiter: Waiter) -> bool | None:
        """Take it back if that can be. Returns whether it has begun in this attempt; None where a report will tell."""
        if waiter.phase is Phase.UPLOADING or self.backlog.in_line(waiter.rid):
            return False
        if waiter.phase is Phase.QUEUED:
            withdrawn = self._sink.withdraw(waiter.rid)
            if withdrawn:
                self.crew.freed(waiter.rid)
            elif withdrawn is None:
                self.crew.asked(waiter.rid)
            return None if withdrawn is None else not withdrawn
        return None if waiter.phase is Phase.RECALLED else True

    # ---- back from the workers

    def receive(self, reports: Sequence[Report]) -> None:
        """All that has come since the last call. Nothing that a report holds may stop the reader."""
        for report in reports:
            try:
                self._apply[type(report)](report)
            except Exception:
                log.exception("a report could not be applied and is dropped: %s", type(report).__name__)
        if self.backlog.line or self.crew.reads_ahead:
            self._dispatch()

    def _begun(self, report: Begun) -> None:
        waiter = self.waiters.get(report.rid)
        if waiter is not None and report.attempt != waiter.attempt:
            return  # an earlier attempt's, whose worker is gone
        self.crew.begun(report.rid, report.worker)
        self.backlog.leave(report.rid)
        if waiter is None:
            self._watch_crew()
            return
        waiter.begun_at = report.at
        if not waiter.policy.idempotent:
            waiter.envelope = None  # it will never be sent again: the body's memory is the worker's alone
        if waiter.phase is Phase.QUEUED:
            waiter.phase = Phase.BEGUN
        elif waiter.phase is Phase.RECALLED:
            self._taken_down(waiter, True, self._clock())

    def _chunk(self, report: Chunk) -> None:
        waiter = self.waiters.get(report.rid)
        if waiter is None or report.attempt != waiter.attempt:
            return
        if waiter.hears is None:
            self.take(waiter, report)  # its caller left before it began, and nobody else does
        else:
            waiter.heard = True
            waiter.hears(report)

    def _progressed(self, report: Progressed) -> None:
        waiter = self.waiters.get(report.rid)
        if waiter is not None and report.attempt == waiter.attempt and waiter.hears is not None:
            waiter.hears(report)

    def take(self, waiter: Waiter, chunk: Chunk) -> None:
        """The caller has taken a stream message: its loop may send more, which it is told now and then."""
        waiter.taken += len(chunk.payload) + FRAME
        if waiter.taken >= WINDOW // 4 and waiter.phase is not Phase.ENDED:
            self._sink.grant(waiter.rid, waiter.taken)
            waiter.taken = 0

    def _outcome(self, outcome: Outcome) -> None:
        now = self._clock()
        waiter = self.waiters.get(outcome.rid)
        if waiter is not None and outcome.attempt != waiter.attempt:
            self._drop(outcome, now)  # an earlier attempt's, whose worker is gone: it frees nothing
            return
        if outcome.last:
            self.crew.freed(outcome.rid, outcome.worker)
        if waiter is not None and outcome.begun_at and not self.crew.shared:
            # What goes on after its reply is as good as unknown: nothing is to lie behind it.
            self.crew.took(
                waiter.policy.name, outcome.ended_at - outcome.begun_at if outcome.last else waiter.policy.timeout
            )
        if waiter is None:
            self.backlog.leave(outcome.rid)  # taken back without an answer, it still held its place
            self._drop(outcome, now)
        else:
            if not outcome.last:
                self._abandon(waiter)
            if waiter.tried is not False:
                outcome = self._of_all_attempts(waiter, outcome)
            self._end(waiter, outcome, now)

    def _of_all_attempts(self, waiter: Waiter, outcome: Outcome) -> Outcome:
        """A worker knows of its own attempt alone."""
        started = waiter.started(outcome.started)
        expired = outcome.reason == "expired-in-queue" and started is not False
        reason = "deadline-exceeded" if expired else outcome.reason
        return msgspec.structs.replace(outcome, reason=reason, started=started)

    def _drop(self, outcome: Outcome, now: float) -> None:
        self._events.emit(
            now, "late_drop", rid=outcome.rid, attempt=outcome.attempt, outcome=outcome.reason, worker=outcome.worker
        )

    def _freed(self, report: Freed) -> None:
        self.crew.freed(report.rid, report.worker)

    def _withdrawn(self, report: Withdrawn) -> None:
        self._answered_for(report.rid, report.begun)

    def _answered_for(self, rid: str, begun: bool | None) -> None:
        """A transport, or its worker's end, has answered a withdrawal."""
        waiter = self.waiters.get(rid)
        if begun is False:
            self.crew.freed(rid)
            if waiter is not None and waiter.phase is Phase.QUEUED:
                if self._judged_elsewhere:
                    self._taken_down(waiter, False, self._clock())  # a worker came upon it when its time was up
                else:
                    self._queue_again(waiter)  # taken back for whoever is free
                return
        if not begun:  # or nobody will ever know
            self.backlog.leave(rid)
        if waiter is not None and waiter.phase is Phase.RECALLED:
            self._taken_down(waiter, begun, self._clock())

    def _queue_again(self, waiter: Waiter) -> None:
        """The worker that had it will not begin it: back to the front of the line."""
        assert waiter.envelope is not None  # kept for as long as it may have to be sent again
        self.backlog.give_back(waiter.envelope, waiter.order)

    def _refused(self, report: Refused) -> None:
        self.crew.freed(report.rid)
        self.backlog.leave(report.rid)
        waiter = self.waiters.get(report.rid)
        if waiter is None:
            return
        now = self._clock()
        if not waiter.admitted:
            self._rejected(waiter.rid, waiter.policy, waiter.request_id, report.reason, now)
        outcome = Outcome(rid=report.rid, reason=report.reason, attempt=waiter.attempt, started=waiter.started(False))
        self._end(waiter, outcome, now, rejected=not waiter.admitted)

    def _taken(self, report: Taken) -> None:
        waiter = self.waiters.get(report.rid)
        if waiter is None:
            return
        assert isinstance(self.crew, Distant)
        if self.crew.counted_there:
            self.backlog.elsewhere(report.rid)
        waiter.envelope = None  # what lies at the broker is run again from there, if it may be
        if not waiter.admitted:
            self._admit(waiter)

    def _requeued(self, report: Requeued) -> None:
        waiter = self.waiters.get(report.rid)
        if waiter is None or report.attempt <= waiter.attempt:
            return
        waiter.attempt = report.attempt
        waiter.tried = either(waiter.tried, report.begun)
        waiter.begun_at = 0.0
        if waiter.phase is Phase.BEGUN:
            waiter.phase = Phase.QUEUED

    def _linked(self, report: Linked) -> None:
        assert isinstance(self.crew, Distant)
        if self.crew.linked(report.up):
            log.log(
                logging.INFO if report.up else logging.WARNING,
                "the broker can be reached" if report.up else "the broker cannot be reached: requests are refused",
            )

    def _staffed(self, report: Staffed) -> None:
        assert isinstance(self.crew, Distant)
        now = self._clock()
        come, left = self.crew.staffed(report.workers, now, report.pools)
        for name in come:
            self._events.emit(now, "worker_up", worker=name)
        for name in left:  # why, is known where it was
            self._events.emit(now, "worker_lost", worker=name, outcome=STOPPED)

    def _worker_up(self, report: WorkerUp) -> None:
        self.crew.up(report.worker, report.loops, report.replaces, report.rank)
        self._events.emit(self._clock(), "worker_up", worker=report.worker)

    def _worker_gone(self, report: WorkerGone) -> None:
        now = self._clock()
        if report.worker not in self.crew:
            self.crew.failed()
        running, buffered = self.crew.gone(report.worker, now)
        self._events.emit(now, "worker_lost", worker=report.worker, outcome=report.cause)
        for rid in buffered:
            self._answered_for(rid, begun=False)
        for rid in running:
            waiter = self.waiters.get(rid)
            if waiter is not None:
                self._lost(waiter, now)
        self._replace_wedged()

    def _lost(self, waiter: Waiter, now: float) -> None:
        """Its worker died while running it: once more where that is allowed, else the end."""
        again = waiter.policy.idempotent and waiter.attempt < self._max_deliveries and not waiter.heard
        if again and waiter.envelope is not None and waiter.phase is Phase.BEGUN:
            waiter.attempt += 1
            waiter.tried = True
            waiter.begun_at = 0.0
            waiter.phase = Phase.QUEUED
            waiter.envelope = msgspec.structs.replace(waiter.envelope, attempt=waiter.attempt)
            self._queue_again(waiter)
            return
        self._end(waiter, Outcome(rid=waiter.rid, reason="worker-lost", attempt=waiter.attempt, started=True), now)

    # ---- ends

    def _end(
        self, waiter: Waiter, outcome: Outcome, now: float, *, recalled: bool = False, rejected: bool = False
    ) -> None:
        """The one place where a request ends.

        Args:
            recalled: its place is freed by the `Withdrawn` that will come.
            rejected: a broker has refused it, which was told as such.
        """
        if not self.waiters.remove(waiter):
            return
        if not (waiter.admitted or rejected):
            self._admit(waiter)  # nobody has answered for it
        waiter.phase = Phase.ENDED
        waiter.envelope = waiter.hears = None
        if not recalled:
            self.backlog.leave(waiter.rid)
        self._admission.pace.ended(now)
        for see in () if rejected else self._on_terminal:
            see(
                Event(
                    t=now, kind="terminal", rid=waiter.rid, endpoint=waiter.policy.name, request_id=waiter.request_id,
                    attempt=outcome.attempt, deadline=waiter.deadline, outcome=outcome.reason, started=outcome.started,
                    admitted_at=waiter.admitted_at, begun_at=outcome.begun_at or waiter.begun_at,
                    ended_at=outcome.ended_at, size=len(outcome.payload),
                )
            )  # fmt: skip
        promise, waiter.promise = waiter.promise, None
        if promise is not None and not promise.done():
            waiter.told = True  # before it is told: its `close` may come from within
            self.unsent += 1
            promise.set_result(outcome)
        for see in self._on_waiter_del:
            see(Event(t=now, kind="waiter_del", rid=waiter.rid, endpoint=waiter.policy.name, deadline=waiter.deadline))
        if self.lifecycle.state is State.DRAINING and not self.waiters:
            self._empty(now)

    def _expire(self, waiter: Waiter, now: float) -> None:
        """Its deadline has passed, or the time in which a withdrawal was to be answered."""
        if waiter.phase is Phase.RECALLED:
            self._taken_down(waiter, None, now)
        else:
            self._take_down(waiter, "upload-timeout" if waiter.phase is Phase.UPLOADING else "", now)

    def _take_down(self, waiter: Waiter, verdict: str, now: float) -> None:
        """End a request from this side. `verdict` is the reason; empty: its deadline, named by whether it had begun."""
        waiter.verdict = verdict
        begun = self._recall(waiter)
        if begun is None and waiter.promise is not None:
            waiter.phase = Phase.RECALLED  # somebody waits: a moment for the transport to say what is true
            self.waiters.postpone(waiter, now + ANSWER_WITHIN)
            self._look(now + ANSWER_WITHIN)
        else:
            self._taken_down(waiter, begun, now)

    def _taken_down(self, waiter: Waiter, begun: bool | None, now: float) -> None:
        """It is known whether this attempt has begun, or (None) nobody waits any longer to know."""
        if begun is not False:
            self._sink.cancel(waiter.rid)
            self._abandon(waiter)
            if waiter.begun_at:
                self.crew.ran(waiter.policy.name, now - waiter.begun_at)
        started = waiter.started(begun)
        reason = waiter.verdict or ("expired-in-queue" if started is False else "deadline-exceeded")
        outcome = Outcome(rid=waiter.rid, reason=reason, attempt=waiter.attempt, started=started)
        self._end(waiter, outcome, now, recalled=begun is None)

    def _abandon(self, waiter: Waiter) -> None:
        """Its loop goes on without anyone waiting, and may not do so for ever."""
        self.crew.abandon(waiter.rid, waiter.deadline)
        self._watch_crew()

    # ---- what time brings

    def _look(self, when: float) -> None:
        """Look again at `when` at the latest: one timer for all deadlines, the crew and the drain."""
        if when >= self._look_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = when
        self._timer = self._timers.call_at(when, self.tick)

    def _watch_crew(self) -> None:
        if (when := self.crew.next_at()) is not None:
            self._look(max(when, self._clock()))  # what is due already is not evidence of a blocked event loop

    def tick(self) -> None:
        """Time has passed: expire, judge the crew, go on with the drain."""
        now = self._clock()
        late = now - self._look_at
        if late > LAG:
            self._events.emit(now, "lag", value=late)
        self._timer, self._look_at = None, float("inf")
        try:
            self._sink.settle()
            for waiter in self.waiters.due(now):
                self._expire(waiter, now)
            self._take_back(now)
            for worker in self.crew.due(now):
                log.warning("worker %s is wedged: its node ran past its deadline and the grace after it", worker)
                self._events.emit(now, "overdue", worker=worker)
            self._replace_wedged()
            self._drain(now)
            self._dispatch()
        finally:  # whatever went wrong: nothing may stop the watch over the other waiters
            # A timer may fire a little early: nothing was due then, and the next look is not to be at once.
            floor = now + 0.001
            for when in (self.waiters.next_at(), self.crew.next_at(), self.drain.next_at(now)):
                if when is not None:
                    self._look(max(when, floor))

    def _take_back(self, now: float) -> None:
        """What lies with a busy worker for too long goes to another, if its worker lets it go."""
        for rid in self.crew.stranded(now):
            if self._sink.withdraw(rid):
                self._answered_for(rid, begun=False)

    def _replace_wedged(self) -> None:
        for worker in self.crew.replaceable():
            self._events.emit(self._clock(), "replace", worker=worker, outcome=WEDGED)
            self._workforce.replace(worker)

    # ---- life

    @property
    def ready(self) -> bool:
        """Whether this process should be sent requests."""
        return self.lifecycle.state in READY and self.crew.usable > 0

    def start(self) -> None:
        """The loops are up: admit from now on."""
        self.lifecycle.move(Move.START)

    def budget_left(self) -> float:
        """Seconds of the drain's budget; without an end where none has begun."""
        return float("inf") if self.drain.began_at is None else self.drain.cut_at - self._clock()

    def begin_drain(self) -> None:
        """Readiness is false from this instant; the rest follows by itself. Once; without effect before the start."""
        if not self.lifecycle.move(Move.LEAVE):
            return
        now = self._clock()
        self.drain.begin(now)
        self._events.emit(now, "drain_begin", value=self.drain.timeout, ended_at=self.drain.refuse_at)
        self._drain(now)
        if (when := self.drain.next_at(now)) is not None:
            self._look(when)

    def _drain(self, now: float) -> None:
        for step in self.drain.due(now):
            if step is Step.REFUSE:
                self.lifecycle.move(Move.REFUSE)
                if not self.waiters and self.lifecycle.state is State.DRAINING:
                    self._empty(now)
            else:
                self._cut(now)

    def _cut(self, now: float) -> None:
        """The budget has ended: everyone left gets an outcome."""
        self._sink.settle()
        self._sink.cut()
        for waiter in self.waiters:
            if waiter.phase < Phase.RECALLED:  # the others are ending already
                self.cut += 1
                self._take_down(waiter, "drain-cut", now)

    def _empty(self, now: float) -> None:
        self.lifecycle.move(Move.EMPTY)
        self._events.emit(now, "drain_end", value=float(self.cut))
        self._drained()

    def stop(self) -> None:
        """The loops have stopped: no timer is left behind."""
        self.lifecycle.move(Move.STOP)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- refusals

    def knock(self, endpoint: str, request_id: str = "") -> None:
        """For whoever will ask, and has no request yet. Raises what would refuse whatever could be asked now.

        Then that is told as a request that was refused; otherwise nothing has happened.
        """
        policy = self.policies[endpoint]
        refusal = self._admission.shut(policy, self._clock())
        if refusal in CAPACITY:
            self._sink.settle()  # as `open` does
            refusal = self._admission.shut(policy, self._clock())
        if refusal is not None:
            now, rid = self._clock(), self._rid()
            for see in self._on_arrive:
                see(Event(t=now, kind="arrive", rid=rid, endpoint=endpoint, request_id=request_id))
            raise self._reject(rid, policy, request_id, refusal, now)

    def _reject(
        self, rid: str, policy: Policy, request_id: str, refusal: type[errors.OffloopError], now: float
    ) -> errors.OffloopError:
        self._rejected(rid, policy, request_id, refusal.reason, now)
        return self._error(policy, request_id, refusal, now)

    def _rejected(self, rid: str, policy: Policy, request_id: str, reason: str, now: float) -> None:
        self.refused += 1
        self._events.emit(now, "reject", rid=rid, endpoint=policy.name, request_id=request_id, outcome=reason)

    def _error(
        self, policy: Policy, request_id: str, refusal: type[errors.OffloopError], now: float
    ) -> errors.OffloopError:
        return refusal(
            endpoint=policy.name, request_id=request_id, started=False, retry_safe=True,
            retry_after=self._admission.retry_after(refusal, policy, now),
        )  # fmt: skip

    def retry_after(self, waiter: Waiter, outcome: Outcome) -> int | None:
        """Seconds for Retry-After where the outcome's answer is a 429 or 503; None for the rest."""
        error = errors.BY_REASON.get(outcome.reason)
        cut_before = outcome.reason == "drain-cut" and outcome.started is False
        if error is None or outcome.status or not (error.status in (429, 503) or cut_before):
            return None
        return self._admission.retry_after(errors.QueueFull, waiter.policy, self._clock())

    # ---- for operators

    def snapshot(self) -> dict[str, Any]:
        """What is so at this moment; read by metrics and the status route."""
        self._sink.settle()
        return {
            "state": self.lifecycle.state.value,
            "ready": self.ready,
            "queue_depth": self.backlog.depth,
            "queue_limit": self._admission.queue_limit,
            "queue_bytes": self.backlog.bytes,
            "endpoints": {
                name: {"in_flight": self.waiters.count(name), "limit": policy.max_in_flight}
                for name, policy in self.policies.items()
            },
            "workers": self.crew.states(),
        }
