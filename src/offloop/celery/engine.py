"""offloop in one process of a Celery worker: the program, its services, and the way back to whoever asked.

Owns what a process has and when it comes to be: the program before processes are made, the rest in each of them. Of
Celery it is told what a task was given, and no more.
"""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence

from celery.utils.imports import cwd_in_path

from offloop.clock import monotonic
from offloop.events import Events
from offloop.graph.fingerprint import fingerprint
from offloop.graph.program import Program
from offloop.graph.services import Services
from offloop.messages import Outcome, Withdrawn
from offloop.runners.sync import SyncRunner
from offloop.settings import Settings
from offloop.telemetry import logs, tracing
from offloop.telemetry.event_log import EventLog
from offloop.transports.celery.broker import Broker
from offloop.transports.celery.ends import Fields, WorkerEnd
from offloop.transports.celery.letters import queue_of
from offloop.transports.celery.worker import CeleryDelivery, Desk
from offloop.transports.parcels import parcels, returns

log = logging.getLogger("offloop")


class Process:
    """What one process has. Services are built in a thread of its own: Celery kills processes that are slow to start.

    Raises:
        SettingsError: the event log cannot be written.
    """

    def __init__(
        self, name: str, end: WorkerEnd, program: Program, settings: Settings, ending: Callable[[], bool]
    ) -> None:
        self._end = end
        endpoints = program.endpoints.values()
        largest = max((each.max_body for each in endpoints), default=0)
        self._desk = Desk(
            name, {each.name: fingerprint(each) for each in endpoints},
            {queue_of(settings.namespace, each.pool) for each in endpoints},
            parcels(settings.signing_key, largest), end, monotonic, ending,
        )  # fmt: skip
        self._log = EventLog(settings.event_log, at_once=True) if settings.event_log else None
        events = Events([self._log] if self._log else [])
        events.emit(monotonic(), "open", mode="worker", worker=name, namespace=settings.namespace)
        self._services: Services = program.services()
        self._runner = SyncRunner(
            name, program, self._services, self._desk,
            clock=monotonic, events=events, max_reply=settings.max_reply, debug=settings.debug, spans=tracing.spans,
        )  # fmt: skip
        self._built = threading.Event()
        self._fault: BaseException | None = None
        self._thread("services", self._build)
        self._thread("orders", self._desk.listen)

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=f"offloop-{name}", daemon=True).start()

    def _build(self) -> None:
        try:
            self._services.open()
        except BaseException as fault:
            self._fault = fault
            log.exception("a service could not be built: no request runs in this process")
        finally:
            self._built.set()

    def run(self, fields: Fields, queue: str, *, redelivered: bool) -> None:
        """One request, from its parcel to its outcome."""
        delivery = self._desk.open(fields, queue, redelivered=redelivered)
        if delivery is None:
            return
        envelope = delivery.envelope
        if not self._built.wait(max(0.0, envelope.deadline - monotonic())):
            self._end.tell(envelope.rid, Withdrawn(envelope.rid, begun=False), heard=True)
        elif self._fault is not None:
            outcome = Outcome(envelope.rid, "node-failed", attempt=envelope.attempt, started=False)
            self._end.tell(envelope.rid, outcome, heard=True)
        else:
            self._desk.run(delivery, self._handle)

    def _handle(self, delivery: CeleryDelivery) -> None:
        self._runner.handle(delivery)

    def close(self) -> None:
        """Nothing runs any more: services are torn down."""
        if self._built.is_set() and self._fault is None:
            self._services.close()
        if self._log is not None:
            self._log.close()


class Engine:
    """offloop's part in a worker, over all of its processes.

    Args:
        packages: of the program; imported by `load`.
        broker: where the web processes hear of what becomes of their requests; asked in the worker only.
        ending: whether Celery has told this process to end.
    """

    def __init__(
        self, packages: Sequence[str], settings: Settings, broker: Callable[[], Broker], ending: Callable[[], bool]
    ) -> None:
        self._packages = packages
        self._settings = settings
        self._find_broker = broker
        self._ending = ending
        self._program: Program | None = None
        self._broker: Broker | None = None
        self._first = 0
        self._token = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._here = 0
        self._name = ""
        self._end: WorkerEnd | None = None
        self._process: Process | None = None

    # ---- before processes are made

    @property
    def loaded(self) -> bool:
        return self._program is not None

    def load(self) -> tuple[Program, Broker]:
        """Import the program and look for the broker, once. Raises what either does."""
        with self._lock:
            broker = self._place()
            if self._program is None:
                with cwd_in_path():  # as for the app itself: a program may lie where `celery` was called
                    self._program = Program.load(*self._packages)
                logs.install()
                tracing.prepare()
            return self._program, broker

    def _place(self) -> Broker:
        if self._broker is None:
            self._broker = self._find_broker()
            self._first = os.getpid()
        return self._broker

    @property
    def pools(self) -> set[str | None]:
        """Of the endpoints."""
        program, _ = self.load()
        return {each.pool for each in program.endpoints.values()}

    # ---- in a process, whichever it is: what a parent has is not its child's

    def end(self) -> WorkerEnd:
        """A way to tell how a task ended; a process that runs none has no more than this, and needs no program."""
        with self._lock:
            return self._end_here(self._place())

    def start(self) -> Process:
        """What a process has that runs tasks, made now if it was not."""
        program, broker = self.load()
        with self._lock:
            end = self._end_here(broker)
            if self._process is None:
                self._process = Process(self._name, end, program, self._settings, self._ending)
            return self._process

    def _end_here(self, broker: Broker) -> WorkerEnd:
        pid = os.getpid()
        if self._here != pid or self._end is None:
            # Of a worker, on no other host, and never again; and of those of its children, which begin with it.
            worker = f"{socket.gethostname().partition('.')[0]}-{self._first}-{self._token}"
            self._here, self._process = pid, None
            self._name = worker if pid == self._first else f"{worker}.{pid}-{secrets.token_hex(3)}"
            keys = self._settings.signing_key
            self._end = broker.worker_end(self._name, returns(keys, self._settings.max_reply), keys, monotonic)
        return self._end

    def close(self) -> None:
        """This process ends."""
        if self._here == os.getpid():
            if self._process is not None:
                self._process.close()
            if self._end is not None:
                self._end.close()
            self._end = self._process = None
