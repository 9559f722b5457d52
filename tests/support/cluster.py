"""A cluster of real processes: web processes, and workers on what stand for other hosts; and callers that take notes.

Owns how they are started, and what callers see. What is to hold is for the tests to say.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from time import monotonic
from typing import Any, NamedTuple, Self

import httpx

from tests.support.command import Worker, working
from tests.support.server import Server, serving
from tests.support.wire import Answer, Wire

PROGRAM, APP = "tests.e2e.programs.clustered", "tests.e2e.programs.clustered_app:app"
DEADLINE = 20.0


def settings(url: str, namespace: str, more: dict[str, Any]) -> dict[str, str | None]:
    named = {f"OFFLOOP_{name.upper()}" if name.islower() else name: str(value) for name, value in more.items()}
    return {"OFFLOOP_BROKER_URL": url, "OFFLOOP_NAMESPACE": namespace, **named}


@contextmanager
def web(url: str, namespace: str = "test", **more: Any) -> Iterator[Server]:
    """A web process; names in lower case are settings, the others variables."""
    with serving(APP, env={"OFFLOOP_MODE": "cluster", **settings(url, namespace, more)}) as server:
        yield server


@contextmanager
def host(url: str, namespace: str = "test", *, workers: int = 2, ready: bool = True, **more: Any) -> Iterator[Worker]:
    """`offloop worker`, which is its supervisor; at the end nothing of it is left. `ready`: wait until it is."""
    args = (PROGRAM, "--concurrency", str(workers))
    with working(*args, env=settings(url, namespace, more)) as worker:
        try:
            if ready:
                worker.wait_probe("/readyz", 200)
            yield worker
        finally:
            worker.kill()


def post(server: Server, path: str, timeout: float | None = None, **order: Any) -> Answer:
    with Wire(server.port, timeout=60) as wire:
        body = httpx.Request("POST", "http://test", json=order).content
        headers = {"content_type": "application/json", "content_length": str(len(body))}
        if timeout is not None:
            headers["x_request_timeout"] = str(timeout)
        wire.head(f"POST {path}", **headers)
        wire.send(body)
        return wire.answer()


def said(answer: Answer) -> tuple[int, str, bool | None]:
    """Status, reason and `started`; of a good answer `ok` and True."""
    if answer.status == 200:
        return 200, "ok", True
    problem = answer.json()
    return answer.status, problem["reason"], problem["started"]


def wait_until(true: Callable[[], object], what: str, timeout: float = DEADLINE) -> float:
    """Until it is; returns the seconds that it took."""
    since, pause = monotonic(), threading.Event()
    while not true():
        assert monotonic() - since < timeout, f"not so after {timeout} s: {what}"
        pause.wait(0.01)  # nobody tells of it but who is asked
    return monotonic() - since


def wait_served(server: Server) -> None:
    """Until it answers three requests in a row."""
    wait_until(lambda: all(post(server, "/work").status == 200 for _ in range(3)), f"it serves\n{server.log}")


class Call(NamedTuple):
    number: int
    at: float
    took: float
    status: int
    reason: str
    started: bool | None
    pid: int


class Callers:
    """A load of one kind of request, each with a number of its own, and somebody who looks whether the loop stalls.

    Args:
        ports: of the web processes, taken in turn.
        seconds: of blocking work in each.
        burns: seconds of work that needs a CPU.
        total: how many requests; 0: until it is stopped.

    Attributes:
        calls: all that were answered, in order of their answers.
        pings: seconds that `/ping` took, each time.
        faults: what no caller should have met.
    """

    def __init__(
        self, *ports: int, path: str = "/work", callers: int = 6, seconds: float = 0.005,
        burns: float = 0.0, total: int = 0,
    ) -> None:  # fmt: skip
        self.calls: list[Call] = []
        self.pings: list[float] = []
        self.faults: list[str] = []
        self._ports, self._path, self._seconds, self._burns = ports, path, seconds, burns
        self._numbers = count() if not total else iter(range(total))
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._callers = [
            threading.Thread(target=self._guard, args=(self._call, ports[n % len(ports)])) for n in range(callers)
        ]
        self._pingers = [threading.Thread(target=self._guard, args=(self._ping, port)) for port in ports]

    def __enter__(self) -> Self:
        for thread in (*self._callers, *self._pingers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self, *, stop: bool = True) -> None:
        """Until every caller has had its last answer; `stop`: after the one that it waits for."""
        if stop:
            self._over.set()
        for thread in self._callers:
            thread.join(60)
        self._over.set()
        for thread in self._pingers:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._callers), "a caller was never answered"

    def _guard(self, act: Callable[[int], None], port: int) -> None:
        try:
            act(port)
        except Exception as fault:  # noqa: BLE001  (a thread's fault is told by the test)
            self.faults.append(repr(fault))

    def _call(self, port: int) -> None:
        with Wire(port, timeout=60) as wire:
            while not self._over.is_set():
                with self._changed:
                    number = next(self._numbers, None)
                if number is None:
                    return
                at = monotonic()
                ended, pid = self._posted(wire, number)
                call = Call(number, at, monotonic() - at, *ended, pid)
                with self._changed:
                    self.calls.append(call)
                    self._changed.notify_all()
                if call.status == 503:
                    self._over.wait(0.01)  # as a patient client would

    def _ping(self, port: int) -> None:
        with Wire(port, timeout=60) as wire:
            while not self._over.wait(0.005):
                at = monotonic()
                wire.head("GET /ping")
                assert wire.answer().status == 200
                self.pings.append(monotonic() - at)

    def _posted(self, wire: Wire, number: int) -> tuple[tuple[int, str, bool | None], int]:
        """How it ended, and in which process."""
        wire.post(self._path, {"number": number, "seconds": self._seconds, "burns": self._burns})
        answer = wire.answer()
        ended = said(answer)
        if ended[1] == "ok":
            assert answer.json()["number"] == number, answer
        return ended, answer.json().get("pid", 0)

    # ---- what was seen

    def wait(self, reason: str = "ok", number: int = 1, after: float = 0.0, timeout: float = DEADLINE) -> Call:
        """Until so many requests that were sent after an instant have ended so; returns the last of these."""

        def found() -> list[Call]:
            return [call for call in self.calls if call.reason == reason and call.at >= after]

        with self._changed:
            done = self._changed.wait_for(lambda: self.faults or len(found()) >= number, timeout)
        assert done, f"{len(found())} of {number} {reason} in {timeout} s; {self.counted(after)}"
        assert not self.faults, self.faults
        return found()[number - 1]

    def between(self, since: float, until: float = float("inf")) -> list[Call]:
        """Those that were sent then."""
        return [call for call in self.calls if since <= call.at < until]

    def counted(self, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        return Counter(call.reason for call in self.between(since, until))

    def stall(self) -> float:
        """The 99th percentile of `/ping`, in seconds."""
        return sorted(self.pings)[int(0.99 * len(self.pings))]


class Balanced(Callers):
    """The same through what stands for a load balancer: all go to the first web process, and from when that drains or
    listens no more, for good to the next.
    """

    def _call(self, port: int) -> None:
        ports = list(self._ports)
        while not self._over.is_set():
            with self._changed:
                number = next(self._numbers)
            at = monotonic()
            while True:
                try:
                    with Wire(ports[0], timeout=60) as wire:
                        ended, pid = self._posted(wire, number)
                except ConnectionError:
                    ended = 503, "draining", False  # it had gone before it took anything
                if ended[1] != "draining" or len(ports) == 1:
                    break
                ports.pop(0)
            with self._changed:
                self.calls.append(Call(number, at, monotonic() - at, *ended, pid))
                self._changed.notify_all()

    def _ping(self, port: int) -> None:
        """Not of those who leave."""
