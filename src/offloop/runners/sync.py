"""SyncRunner: one blocking loop: take, run, route, reply.

Owns what happens between an envelope and its outcome on the worker side, in the loop's own thread: claiming, decoding,
the request scope, the nodes, encoding. It is the same in every mode. It never judges deadlines but to refuse what is
late, and it never touches the web side's state. Whatever a node does, the loop lives.
"""

import logging
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

from pydantic_core import to_json

from offloop import errors
from offloop.clock import Clock
from offloop.context import running
from offloop.events import Event, Events, Kind
from offloop.graph.job import Job
from offloop.graph.payloads import errors_json
from offloop.graph.program import Program
from offloop.graph.services import Services
from offloop.messages import FRAME, Begun, Chunk, Envelope, Freed, Outcome, Progressed
from offloop.ports.codec import Codec
from offloop.ports.replies import ReplySink
from offloop.ports.work import Delivery, WorkSource

log = logging.getLogger("offloop.nodes")

IDLE = 1.0
"""Seconds after which an idle loop looks whether it is to stop; a stop wakes it anyway."""

TELL_EVERY = 0.1
"""Seconds between two reports of one request's progress."""
NOTE_LIMIT = 1000
"""Characters of a note that are told on."""


class Span(Protocol):
    """Entered around one request's nodes; sees what they raise."""

    def __enter__(self) -> object: ...
    def __exit__(self, kind: Any, failure: Any, trace: Any, /) -> object: ...
    def end(self, reason: str) -> None:
        """How it went where nothing was raised."""


Spans = Callable[[Envelope], Span | None]


class SyncRunner:
    """One loop. `run` is its thread's target; `stop` may be called from any thread and takes effect between requests.

    Args:
        name: the worker's name in reports and events.
        program: what to run.
        services: opened; shared with the other loops of this process.
        sink: where it reports.
        max_reply: bytes of an encoded reply or stream message.
        debug: whether outcomes carry tracebacks.
        spans: a context manager around one request's nodes, or None where nobody traces.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        services: Services,
        sink: ReplySink,
        *,
        clock: Clock,
        events: Events,
        max_reply: int,
        debug: bool = False,
        spans: Spans = lambda _: None,
    ) -> None:
        self.name = name
        self._program = program
        self._services = services
        self.sink = sink
        self.clock = clock
        self.max_reply = max_reply
        self.debug = debug
        self._spans = spans
        self._stopping = False
        kinds: tuple[Kind, ...] = ("dequeue", "start")
        self._on_begin = [(kind, see) for kind in kinds for see in events.of(kind)]
        self.on_finish = events.of("finish")

    def stop(self) -> None:
        """End after the request in hand."""
        self._stopping = True

    def run(self, source: WorkSource) -> None:
        """Take what comes from there, until `stop`."""
        while not self._stopping:
            delivery = source.get(IDLE)
            if delivery is not None:
                self.handle(delivery)

    def handle(self, delivery: Delivery) -> None:
        """One request, from its claim to its outcome. Never raises."""
        envelope = delivery.envelope
        now = self.clock()
        # What is late is left unclaimed: the web side takes it back at its deadline, and may say that it never began.
        if now >= envelope.deadline or not delivery.begin():
            return
        self.sink.send(Begun(envelope.rid, envelope.attempt, self.name, now))
        for kind, see in self._on_begin:
            see(Event(t=now, kind=kind, rid=envelope.rid, endpoint=envelope.endpoint, attempt=envelope.attempt,
                      deadline=envelope.deadline, worker=self.name))  # fmt: skip
        out = _Out(self, delivery, now)
        token = running.set(envelope)
        try:
            self._run(delivery, out)
        except BaseException as stray:  # noqa: BLE001  (what no node threw: the loop lives all the same)
            out.fail(stray)
        finally:
            running.reset(token)
        out.finish()

    def _run(self, delivery: Delivery, out: "_Out") -> None:
        envelope = delivery.envelope
        out.codec = self._program.codec(envelope.endpoint)
        try:
            message = out.codec.decode_request(envelope)
        except errors.InvalidPayload as invalid:
            out.end(reason="invalid-payload", payload=errors_json(invalid.errors), started=False)
            return
        progress = out.progress if envelope.stream else None
        job = Job(envelope, clock=self.clock, cancelled=lambda: delivery.cancelled, progress=progress)
        span = self._spans(envelope)
        try:
            route = self._services.route(envelope.endpoint)
            if span is None and not route.uses_services:
                route.run(message, job, None, out)
                return
            with span or _NOTHING, self._services.request() if route.uses_services else _NOTHING as scope:
                route.run(message, job, scope, out)
                if span is not None:
                    span.end(out.reason)
        except BaseException as failure:  # noqa: BLE001  (a node's sys.exit() ends its request, and nothing else)
            out.fail(failure)


_NOTHING = nullcontext()


class _Out:
    """Where one request's messages go, and what became of it. Belongs to the loop's thread."""

    __slots__ = ("_chunks", "_delivery", "_outcome", "_runner", "_sent", "_told_all", "_told_at", "begun_at", "codec")

    codec: Codec

    def __init__(self, runner: SyncRunner, delivery: Delivery, begun_at: float) -> None:
        self._runner = runner
        self._delivery = delivery
        self._outcome: Outcome | None = None
        self._sent = False
        self._chunks = 0
        self._told_at = 0.0
        self._told_all = False
        self.begun_at = begun_at

    def chunk(self, message: object) -> None:
        """A message of the stream type: sent on to a caller that streams, passed over for one that does not."""
        envelope = self._delivery.envelope
        if not envelope.stream:
            return
        encoded = self.codec.encode_chunk(message)
        self._check(encoded.payload)
        patience = envelope.deadline - self._runner.clock()
        if not self._delivery.spend(len(encoded.payload) + FRAME, max(0.0, patience)):
            raise errors.Cancelled() if self._delivery.cancelled else errors.DeadlineExceeded()
        self._chunks += 1
        self._runner.sink.send(
            Chunk(envelope.rid, envelope.attempt, self._chunks, encoded.payload, encoded.media_type, encoded.filename)
        )

    def progress(self, done: float, total: float | None, note: str | None) -> None:
        """Told on to a caller that streams, if the last time is long enough ago, or all is done now."""
        now = self._runner.clock()
        if now - self._told_at < TELL_EVERY and (done != total or self._told_all):
            return
        self._told_at, self._told_all = now, done == total
        envelope = self._delivery.envelope
        whole = None if total is None else float(total)  # any number will do for a node; not every one can be sent
        text = None if note is None else note[:NOTE_LIMIT].encode(errors="replace").decode()
        self._runner.sink.send(Progressed(envelope.rid, envelope.attempt, float(done), whole, text))

    def reply(self, message: object, *, last: bool) -> None:
        """The reply. `last`: nothing runs after it, so that the outcome can say that the loop is free as well."""
        payload, _, media_type, filename = self.codec.encode_reply(message)
        self._check(payload)
        envelope, runner = self._delivery.envelope, self._runner
        self._outcome = Outcome(
            envelope.rid, "ok", payload, 0, media_type, filename, envelope.attempt, True,
            self.begun_at, runner.clock(), runner.name, last,
        )  # fmt: skip
        if not last:
            self._send()

    def _check(self, payload: bytes) -> None:
        if len(payload) > self._runner.max_reply:
            raise ValueError(f"the message is {len(payload)} bytes long, MAX_REPLY is {self._runner.max_reply}")

    @property
    def reason(self) -> str:
        """How it went, once nothing more will come: `ok`, or a reason."""
        return "no-reply" if self._outcome is None else self._outcome.reason

    def end(self, **outcome: Any) -> None:
        """Note the outcome; it is sent when the request scope has been closed. Once, and not after a reply."""
        envelope, runner = self._delivery.envelope, self._runner
        self._outcome = Outcome(
            rid=envelope.rid, attempt=envelope.attempt, begun_at=self.begun_at, ended_at=runner.clock(),
            worker=runner.name, **outcome,
        )  # fmt: skip

    def fail(self, failure: BaseException) -> None:
        """A node, a service or the machinery raised."""
        envelope, delivery = self._delivery.envelope, self._delivery
        if self._outcome is not None:
            _log("%s: failed after its reply", envelope.endpoint, failure)
        elif isinstance(failure, errors.Problem):
            self._refuse(failure)
        elif isinstance(failure, errors.Cancelled) and delivery.cancelled:
            self.end(reason="cancelled")
        elif isinstance(failure, errors.DeadlineExceeded) and self._runner.clock() >= envelope.deadline:
            self.end(reason="deadline-exceeded")
        else:
            self.end(reason="node-failed", debug=self._debug(failure))
            _log("%s: the work failed", envelope.endpoint, failure)

    def _refuse(self, problem: errors.Problem) -> None:
        said = {"title": problem.title, "detail": problem.detail, "members": problem.members}
        try:
            payload = to_json(said, inf_nan_mode="null")  # JSON has neither, and no reader takes them
        except Exception as unwritable:  # noqa: BLE001  (a member's own serializer may raise anything)
            self.fail(TypeError(f"{type(problem).__name__} has a member that cannot be written as JSON: {unwritable}"))
            return
        self.end(reason=problem.reason, status=problem.status, payload=payload, debug=self._debug(problem))

    def _debug(self, failure: BaseException) -> str | None:
        return "".join(traceback.format_exception(failure)) if self._runner.debug else None

    def finish(self) -> None:
        """Everything of this request has ended: send what has not been sent, and with it that the loop is free."""
        if self._sent:
            self._free()
            return
        if self._outcome is None:
            self.end(reason="no-reply")
        self._send()

    def _free(self) -> None:
        envelope = self._delivery.envelope
        self._runner.sink.send(Freed(envelope.rid, envelope.attempt, self._runner.name))

    def _send(self) -> None:
        outcome, runner = self._outcome, self._runner
        assert outcome is not None
        self._sent = True
        for see in runner.on_finish:
            envelope = self._delivery.envelope
            see(
                Event(
                    t=outcome.ended_at, kind="finish", rid=envelope.rid, endpoint=envelope.endpoint,
                    attempt=envelope.attempt, deadline=envelope.deadline, outcome=outcome.reason,
                    size=len(outcome.payload), worker=runner.name,
                )
            )  # fmt: skip
        if outcome.reason == "cancelled":
            self._free()  # nobody waits: an outcome would only be counted as a late one
        else:
            runner.sink.send(outcome)


def _log(text: str, endpoint: str, failure: BaseException) -> None:
    try:
        log.error(text, endpoint, exc_info=failure)
    except Exception:  # noqa: BLE001  (a filter's failure comes through to here; told as logging tells a handler's)
        traceback.print_exc()
