"""A worker process, from its first line to its last: `main`, which the web process has a fresh interpreter call.

Owns the order in which a worker comes up and ends: tied to its parent, told what to do, the program imported, services
built, ready; loops; services closed. It imports the user's packages and never the web app. Loop 1 is the main thread,
because that is where libraries expect to be used; the others have threads.
"""

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from offloop.clock import monotonic
from offloop.cpus import spare_cpus
from offloop.events import Events
from offloop.graph.program import Program
from offloop.graph.services import Services
from offloop.orchestration import interpreter
from offloop.orchestration.child import end_with_parent, name_process, tie
from offloop.ports.replies import ReplySink
from offloop.ports.work import WorkSource
from offloop.runners.sync import IDLE, SyncRunner
from offloop.telemetry import forwarding, logs, tracing
from offloop.telemetry.event_log import EventLog
from offloop.telemetry.forwarding import Forwarder
from offloop.transports.local.frames import (
    Asks,
    Cluster,
    Crowded,
    Disbelieved,
    Failed,
    Leaves,
    Progress,
    Ready,
    Setup,
    Sit,
    Stand,
    Worn,
)
from offloop.transports.local.table import Table
from offloop.transports.local.worker import LocalSource

if TYPE_CHECKING:
    from offloop.transports.redis.seat import Seat
    from offloop.transports.redis.worker import RedisSource

log = logging.getLogger("offloop")

CODE = "import sys; sys.path.insert(0, sys.argv[1]); from offloop.orchestration.worker import main; main()"
"""What the interpreter is given to run; its arguments are where offloop lies, and a `Place`, in the order of fields."""


class Place(NamedTuple):
    """Where a worker finds itself: its parent's pid, its index, and its ends as file descriptors.

    `tether` is for `child.tie`.
    """

    parent: int
    number: int
    work: int
    control: int
    table: int
    logs: int
    tether: int


def main() -> None:
    """Serve until told to stop; the web process' end is this one's."""
    place = Place(*map(int, sys.argv[2:]))
    end_with_parent(place.parent)
    tie(place.tether)
    name_process(f"offloop-{place.number}")
    _settle_in()
    work, control = socket.socket(fileno=place.work), socket.socket(fileno=place.control)
    for each in (work, control):
        each.setblocking(True)  # made under `socket.setdefaulttimeout` over there, they would not wait
    for line in (place.work, place.control, place.logs, place.tether):
        os.set_inheritable(line, False)  # what a node starts is not to keep them open
    runners: list[SyncRunner] = []
    elsewhere: list[RedisSource] = []
    source = LocalSource(work, Table(place.table), ended=lambda: _stop(runners, elsewhere))
    os.close(place.table)
    # From the first moment: while native code of an import or a service takes its time, too.
    _thread("control", lambda: _until_the_end(source, control))
    setup = source.setup()
    source.max_report = setup.max_reply
    source.stays_awake = setup.loops == 1 and place.number < spare_cpus()
    sys.path[:] = map(os.fsdecode, setup.path)
    sys.argv = [sys.argv[0]]
    forwarder = forwarding.install(place.logs, setup.levels)
    source.idle = forwarder.flush  # what a full pipe has held back
    services = _start(setup, source, runners, elsewhere, forwarder)
    if elsewhere:  # then all that comes over the socket is the order to stop
        _thread("orders", lambda: _until_told(source, elsewhere))
        _thread("relief", lambda: _relieve(elsewhere))
        _serve([partial(_live, runner, one, one.close) for runner, one in zip(runners, elsewhere, strict=True)])
    else:
        _serve([partial(_live, runner, source) for runner in runners])
    services.close()
    forwarder.flush()


def _settle_in() -> None:
    """What a terminal or a supervisor sends to all is for the web process, which drains, and tells this one to stop.

    Handlers that do nothing, and not SIG_IGN, which whatever a node starts would inherit.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _pass_over)
    faulthandler.enable()  # a crash says on stderr where it was
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a pipe's, of this interpreter's making


def _pass_over(signum: int, frame: FrameType | None) -> None:
    pass


def _until_the_end(source: LocalSource, control: socket.socket) -> None:
    """Heed control frames. Once the web process has gone, nobody is left to work for: end, with what nodes started."""
    try:
        source.control(control)
    except BaseException:  # noqa: BLE001  (whatever it was, this process cannot be told anything any more)
        traceback.print_exc()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _until_told(source: LocalSource, elsewhere: "list[RedisSource]") -> None:
    while not elsewhere[0].stopped:
        source.get(IDLE)


def _relieve(elsewhere: "list[RedisSource]") -> None:
    from offloop.transports.redis.worker import relieve

    relieve(elsewhere)


def _start(
    setup: Setup, source: LocalSource, runners: list[SyncRunner], elsewhere: "list[RedisSource]", forwarder: Forwarder
) -> Services:
    """Bring the program up and say that it is ready, or say why not and end."""
    failure = "the program could not be imported"
    try:
        source.tell(Progress(f"importing {', '.join(setup.packages)}"))
        program = Program.load(*setup.packages)
        if missing := set(setup.endpoints).difference(program.endpoints):
            raise LookupError(f"no {', '.join(sorted(missing))}: the files have changed since the web process started")
        failure = "a service could not be built"
        source.tell(Progress("building services"))
        services = program.services(*setup.endpoints)
        services.open()
        failure = "its event log cannot be kept"
        events = _events(setup)
    except BaseException as cause:  # noqa: BLE001  (also what calls sys.exit() as it is imported)
        forwarder.flush()
        source.tell(Failed(f"{failure}: {_line(cause)}", traceback.format_exc()))
        sys.exit(1)
    forwarding.apply(setup.levels)  # the web process' levels win over what an import has set
    logs.install()
    tracing.prepare()
    name = setup.name
    sinks: Sequence[ReplySink] = [source] * setup.loops
    if setup.cluster is not None:
        elsewhere += _sources(setup, setup.cluster, source, forwarder)
        sinks = elsewhere
        name = setup.cluster.name  # by which whoever asked tells its supervisor of it
        events.emit(monotonic(), "open", mode="worker", worker=name, namespace=setup.cluster.namespace)
    runners += [
        SyncRunner(
            name, program, services, sink,
            clock=monotonic, events=events, max_reply=setup.max_reply, debug=setup.debug, spans=tracing.spans,
        )
        for sink in sinks
    ]  # fmt: skip
    if setup.gc_freeze:
        interpreter.freeze()
    source.tell(Ready())
    return services


def _events(setup: Setup) -> Events:
    """Of what is taken elsewhere nobody else is told when it begins and ends."""
    if setup.cluster is None or setup.cluster.event_log is None:
        return Events()
    return Events([EventLog(setup.cluster.event_log, at_once=True)])


def _sources(setup: Setup, cluster: Cluster, source: LocalSource, forwarder: Forwarder) -> "list[RedisSource]":
    """One for each loop that takes its work elsewhere. What that needs is installed where there is a broker only."""
    from offloop.transports.redis.desk import Desk
    from offloop.transports.redis.names import Names, mark_of
    from offloop.transports.redis.wire import address_of
    from offloop.transports.redis.worker import RedisSource

    counted = Count(cluster.limit, lambda: source.tell(Worn()))
    seats = [_seat(cluster, source, number) for number in range(setup.loops)]
    source.seated = lambda told: _seated(seats[told.loop], told)
    desk = Desk(
        address_of(cluster.url), Names(cluster.namespace), cluster.pool, cluster.name, cluster.keys,
        cluster.fingerprints, cluster.max_body, setup.max_reply, monotonic,
        opened=source.opened, closed=source.closed, holds=source.holds,
        begins=lambda loop, id_: source.mark(loop, *mark_of(id_)),
        counted=counted, idle=forwarder.flush, busy=threading.Event(), seat=seats.__getitem__,
        disbelieved=lambda: source.tell(Disbelieved()),
    )  # fmt: skip
    return [RedisSource(desk, number) for number in range(setup.loops)]


def _seat(cluster: Cluster, source: LocalSource, number: int) -> "Seat":
    from offloop.transports.redis.seat import Seat

    asks = (lambda turn: source.tell(Asks(number, turn))) if cluster.scarce else None
    return Seat(asks, lambda turn: source.tell(Leaves(number, turn)), lambda: source.tell(Crowded()))


def _seated(seat: "Seat", told: Sit | Stand) -> None:
    if isinstance(told, Sit):
        seat.give(told.turn)
    else:
        seat.stand(told.turn)


class Count:
    """Calls `reached` once, when it has been called so often; 0: never. Thread-safe."""

    def __init__(self, limit: int, reached: Callable[[], object]) -> None:
        self._numbers = iter(range(1, limit + 1))
        self._limit = limit
        self._reached = reached

    def __call__(self) -> None:
        if next(self._numbers, 0) == self._limit and self._limit:
            self._reached()


def _stop(runners: list[SyncRunner], elsewhere: "list[RedisSource]") -> None:
    for runner in runners:
        runner.stop()
    for one in elsewhere:
        one.stop()


def _serve(lives: Sequence[Callable[[], None]]) -> None:
    first, *others = lives
    threads = [_thread(f"loop-{number}", loop) for number, loop in enumerate(others, 2)]
    first()
    for thread in threads:
        thread.join()


def _live(runner: SyncRunner, source: WorkSource, ended: Callable[[], None] = lambda: None) -> None:
    """A loop, from beginning to end. What ends it by surprise ends the process: nobody would miss half a worker."""
    try:
        runner.run(source)
        ended()
    except BaseException:  # noqa: BLE001  (nothing that a node raises comes so far)
        traceback.print_exc()
        os._exit(1)


def _thread(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=f"offloop-{name}", daemon=True)
    thread.start()
    return thread


def _line(failure: BaseException) -> str:
    """An exception on one line; the rest of what it says is in the traceback."""
    return f"{type(failure).__name__}: {failure}".splitlines()[0]
