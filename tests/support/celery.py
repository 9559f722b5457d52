"""A real Celery worker in a process group of its own, and what one asks of it: its pool, its children, its end.

Owns how it is started and known to be ready, and how tests look at what it and its web process have done. What it is to
do is for the tests to say.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Self
from uuid import uuid4

import httpx

from tests.support.cluster import Callers, settings, wait_until
from tests.support.command import Env, environ
from tests.support.gate import Gate
from tests.support.proxy import Proxy
from tests.support.server import DEADLINE, MARK, ROOT, Server, serving

APP = "tests.e2e.programs.celeried_app:app"
OURS, THEIRS = "tests.e2e.programs.celeried_worker:app", "tests.e2e.programs.celeried_own_app:app"
READY = r"celery@\S+ ready\."
SECRET = "what-only-callers-know"

Pool = Literal["prefork", "threads", "solo"]


class Worker(Server):
    """`celery -A … worker`: its parent process is `process`, what runs tasks `children()`.

    Args:
        app: `module:attribute`.
        pool, concurrency: Celery's.
        args: more of its options, such as `-Q one,two`.
        name: what it calls itself before the `@`; one of its own, so that `inspect` tells them apart.
        level: of its log.
    """

    def __init__(
        self,
        app: str,
        *args: str,
        env: Env,
        pool: Pool = "prefork",
        concurrency: int = 2,
        name: str = "",
        level: str = "INFO",
    ) -> None:
        mark = uuid4().hex
        self.pool = pool
        self.name = f"{name or mark[:8]}@here"
        self._mark = f"{MARK}={mark}"
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        command = ["-m", "celery", "-A", app, "worker", "-P", pool, "-c", str(concurrency), "-l", level]
        self.process = subprocess.Popen(
            [sys.executable, *command, "-n", self.name, "--without-mingle", "--without-gossip", *args],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=environ(env, **{MARK: mark}), cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def wait_ready(self) -> None:
        """Until it takes from its queues."""
        self.wait_line(READY.replace(r"celery@\S+", re.escape(self.name)))

    def children(self) -> set[int]:
        """The processes of its pool; of a pool of threads none. Without the tracker that a prefork pool may have."""
        path = Path(f"/proc/{self.process.pid}/task")
        found = set()
        with suppress(OSError):
            for thread in path.iterdir():
                found |= {int(pid) for pid in (thread / "children").read_text().split()}
        return found & self.processes()

    def stop(self, timeout: float = DEADLINE) -> int:
        """SIGTERM to the parent alone, as a supervisor does: what runs is finished. Returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def strike(self) -> None:
        """SIGKILL to the parent and all of its children at once: a host that is no more."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def kill(self) -> None:
        """Nothing of it is left."""
        self.strike()
        self.wait_gone(timeout=DEADLINE)


@contextmanager
def celery(
    url: str,
    namespace: str = "test",
    *args: str,
    app: str = OURS,
    pool: Pool = "prefork",
    concurrency: int = 2,
    ready: bool = True,
    level: str = "INFO",
    **more: Any,
) -> Iterator[Worker]:
    """A worker of that app behind a broker; `url` has our mark. Names in lower case are settings, others variables."""
    env = settings(url, namespace, more)
    with Worker(app, *args, env=env, pool=pool, concurrency=concurrency, level=level) as worker:
        try:
            if ready:
                worker.wait_ready()
            yield worker
        finally:
            worker.kill()


class Kept:
    """A worker that a supervisor keeps, as any is that has a broker which may go: whenever it ends, another is started.

    Attributes:
        workers: all so far; the last is the one that runs.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[Worker]]) -> None:
        self.workers: list[Worker] = []
        self._start = start
        self._over = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._first.wait(DEADLINE), "it did not start"
        self.workers[0].wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.workers:
            self.workers[-1].strike()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _keep(self) -> None:
        while not self._over.is_set():
            with self._start() as worker:
                self.workers.append(worker)
                self._first.set()
                worker.process.wait()

    @property
    def log(self) -> str:
        return "\n".join(worker.log for worker in self.workers)


class Watcher:
    """What `celery events` sees, as it comes: a receiver in a thread of its own. For a worker with `-E`.

    Attributes:
        events: all so far, each as Celery gives it.
    """

    def __init__(self, app: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._app = app
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._fault: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait("worker-heartbeat")  # it is heard from now on; of a subscription nothing else tells
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _watch(self) -> None:
        try:
            with self._app.connection_for_read() as connection:
                receiver = self._app.events.Receiver(connection, handlers={"*": self._came})
                with receiver.get_consumers(receiver.channel.Consumer, receiver.channel)[0]:
                    while not self._over.is_set():
                        with suppress(TimeoutError):
                            connection.drain_events(timeout=0.1)
        except BaseException as fault:  # noqa: BLE001  (told by whoever waits)
            self._fault = fault
            with self._changed:
                self._changed.notify_all()

    def _came(self, event: dict[str, Any]) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, kind: str, true: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """Until an event of that kind has come."""

        def found() -> dict[str, Any] | None:
            return next((each for each in self.events if each["type"] == kind and true(each)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._fault, DEADLINE)
            event = found()
        assert self._fault is None, self._fault
        assert event is not None, f"no {kind} came: {[each['type'] for each in self.events]}"
        return event


@contextmanager
def web(url: str, namespace: str = "test", *, app: str = APP, **more: Any) -> Iterator[Server]:
    """A web process; `url` has our mark. Names in lower case are settings, the others variables."""
    with serving(app, env={"OFFLOOP_MODE": "cluster", **settings(url, namespace, more)}) as server:
        yield server


def asked(answer: Callable[[], Any], what: str) -> Any:
    """Ask a worker until it answers: one that has just become ready may not hear yet."""
    until, pause = monotonic() + DEADLINE, threading.Event()
    while not (found := answer()):
        assert monotonic() < until, f"nobody says {what}"
        pause.wait(0.05)
    return found


def both(act: Callable[[Proxy], object]) -> Callable[[Any], object]:
    """The same to the web process' way to the broker and to the worker's, of a site that has these."""
    return lambda site: (act(site.to_web), act(site.to_worker))


def shown(text: str) -> bool:
    """Whether the secret is in it, as it is or as base64 would have it."""
    forms = [SECRET]
    for skipped in range(3):
        coded = base64.b64encode(b"x" * skipped + SECRET.encode()).decode()
        forms.append(coded[4:-4])
    return any(form in text for form in forms)


# ---- what a web process tells


def status(process: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{process.url}/offloop/status").json()
    return found


def wait_idle(process: Server, loops: int) -> None:
    wait_until(lambda: status(process)["workers"]["idle"] == loops, f"{loops} loops are announced and idle")


def depth(process: Server) -> int:
    found: int = status(process)["queue_depth"]
    return found


@contextmanager
def streaming(process: Server, path: str, **order: Any) -> Iterator[httpx.Response]:
    headers = {"accept": "text/event-stream"}
    with (
        httpx.Client(base_url=process.url, timeout=20) as client,
        client.stream("POST", path, json=order, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        yield answer


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The data of an event stream, as it comes."""
    for line in answer.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


# ---- what has begun


def numbers(record: Path) -> list[int]:
    """Of the requests that have begun, in order."""
    return [int(line.split()[0]) for line in record.read_text().splitlines()] if record.exists() else []


def lied_about(callers: Callers, record: Path) -> set[int]:
    """Those of whom it was said that they had not begun, and they had."""
    return {call.number for call in callers.calls if call.started is False} & set(numbers(record))


def where(gate: Gate, name: str) -> list[int]:
    """The processes in which a node has begun under that name, in order."""
    found = (re.fullmatch(rf"{name} began in (\d+)", note) for note in list(gate.notes))
    return [int(match.group(1)) for match in found if match]
