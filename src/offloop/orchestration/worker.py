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
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import NamedTuple

from offloop.clock import monotonic
from offloop.events import Events
from offloop.graph.program import Program
from offloop.graph.services import Services
from offloop.orchestration import interpreter
from offloop.orchestration.child import end_with_parent, name_process
from offloop.runners.sync import SyncRunner
from offloop.telemetry import forwarding, logs, tracing
from offloop.telemetry.forwarding import Forwarder
from offloop.transports.local.frames import Failed, Progress, Ready, Setup
from offloop.transports.local.table import Table
from offloop.transports.local.worker import LocalSource

log = logging.getLogger("offloop")

CODE = "import sys; sys.path.insert(0, sys.argv[1]); from offloop.orchestration.worker import main; main()"
"""What the interpreter is given to run; its arguments are where offloop lies, and a `Place`, in the order of fields."""


class Place(NamedTuple):
    """Where a worker finds itself: its parent's pid, its index, and its ends as file descriptors."""

    parent: int
    number: int
    work: int
    control: int
    table: int
    logs: int


def main() -> None:
    """Serve until told to stop; the web process' end is this one's."""
    place = Place(*map(int, sys.argv[2:]))
    end_with_parent(place.parent)
    name_process(f"offloop-{place.number}")
    _settle_in()
    work, control = socket.socket(fileno=place.work), socket.socket(fileno=place.control)
    for line in (place.work, place.control, place.logs):
        os.set_inheritable(line, False)  # what a node starts is not to keep them open
    runners: list[SyncRunner] = []
    source = LocalSource(work, Table(place.table), ended=lambda: _stop(runners))
    os.close(place.table)
    # From the first moment: while native code of an import or a service takes its time, too.
    _thread("control", lambda: _until_the_end(source, control))
    setup = source.setup()
    source.max_report = setup.max_reply
    sys.path[:] = setup.path
    sys.argv = [sys.argv[0]]
    forwarder = forwarding.install(place.logs, setup.levels)
    source.idle = forwarder.flush  # what a full pipe has held back
    services = _start(setup, source, runners, forwarder)
    _serve(runners)
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


def _start(setup: Setup, source: LocalSource, runners: list[SyncRunner], forwarder: Forwarder) -> Services:
    """Bring the program up and say that it is ready, or say why not and end."""
    failure = "the program could not be imported"
    try:
        source.tell(Progress(f"importing {', '.join(setup.packages)}"))
        program = Program.load(*setup.packages)
        if missing := set(setup.endpoints).difference(program.endpoints):
            raise LookupError(f"no {', '.join(sorted(missing))}: the files have changed since the web process started")
        failure = "a service could not be built"
        source.tell(Progress("building services"))
        services = program.services()
        services.open()
    except BaseException as cause:  # noqa: BLE001  (also what calls sys.exit() as it is imported)
        forwarder.flush()
        source.tell(Failed(f"{failure}: {_line(cause)}", traceback.format_exc()))
        sys.exit(1)
    forwarding.apply(setup.levels)  # the web process' levels win over what an import has set
    logs.install()
    tracing.prepare()
    runners += [
        SyncRunner(
            setup.name, program, services, source, source,
            clock=monotonic, events=Events(), max_reply=setup.max_reply, debug=setup.debug, spans=tracing.spans,
        )
        for _ in range(setup.loops)
    ]  # fmt: skip
    if setup.gc_freeze:
        interpreter.freeze()
    source.tell(Ready())
    return services


def _stop(runners: list[SyncRunner]) -> None:
    for runner in runners:
        runner.stop()


def _serve(runners: list[SyncRunner]) -> None:
    first, *others = runners
    threads = [_thread(f"loop-{number}", partial(_live, runner)) for number, runner in enumerate(others, 2)]
    _live(first)
    for thread in threads:
        thread.join()


def _live(runner: SyncRunner) -> None:
    """A loop, from beginning to end. What ends it by surprise ends the process: nobody would miss half a worker."""
    try:
        runner.run()
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
