"""The web side of a suite: an event loop in a thread of its own, and all that was reported on it.

Owns the waiting: everything here ends with an event, or fails at `DEADLINE`. The tests themselves run in plain threads,
as a worker does, so that either side can be held up without the other.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from offloop.messages import Linked, Report, Staffed, Taken, WorkerGone

T = TypeVar("T")

DEADLINE = 10.0
"""Seconds after which what was waited for counts as missing."""


ASIDE = (Taken, Linked, Staffed)
"""What a transport that is shared tells besides: it answers no request, and comes when it comes."""
INSTANTS = ("at", "begun_at", "ended_at")
STEP = 0.25
"""Instants that a suite sends are multiples of this many seconds, by which they are known again."""


class WebSide:
    """An event loop and its receiver of reports. A context manager: the loop runs inside of it.

    Args:
        tolerance: seconds by which an instant may have moved on its way.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self._tolerance = tolerance
        self.reports: list[Report] = []
        self.calls = 0
        self.failures: list[BaseException] = []
        self._came = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self.failures.append(context["exception"]))
        self._thread = threading.Thread(target=self._loop.run_forever, name="web-side", daemon=True)

    def __enter__(self) -> "WebSide":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await it on the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call it on the event loop."""
        return self.begin(function, *args).result(DEADLINE)

    def begin(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Call it on the event loop, and do not wait for its end."""
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(function(*args))
            except BaseException as failure:  # noqa: BLE001  (raised again where the result is asked for)
                done.set_exception(failure)

        self._loop.call_soon_threadsafe(call)
        return done

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Hold the event loop up, so that nothing is received inside of the block."""
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go_on.wait(DEADLINE)

        done = self.begin(hold)
        assert held.wait(DEADLINE), "the event loop does not turn"
        try:
            yield
        finally:
            go_on.set()
            done.result(DEADLINE)

    def receive(self, reports: Sequence[Report]) -> None:
        """The receiver to subscribe with."""
        reports = [self._in_place(report) for report in reports if not isinstance(report, ASIDE)]
        if not reports:
            return
        with self._came:
            self.reports.extend(reports)
            self.calls += 1
            self._came.notify_all()

    def _in_place(self, report: Report) -> Report:
        """With its instants where they were when it was sent, if they have moved by no more than they may."""
        moved = {}
        for name in INSTANTS:
            at = getattr(report, name, 0.0)
            meant = round(at / STEP) * STEP
            if at != meant and abs(at - meant) <= self._tolerance:
                moved[name] = meant
        return msgspec.structs.replace(report, **moved) if moved else report

    def until(self, enough: Callable[[list[Report]], bool], what: str) -> list[Report]:
        """Wait for the reports to be enough; a copy of them."""
        with self._came:
            assert self._came.wait_for(lambda: enough(self.reports), DEADLINE), f"{what}: not within {DEADLINE} s"
            return list(self.reports)

    def until_gone(self) -> WorkerGone:
        """Wait for the end of the worker that was lost."""

        def gone(reports: list[Report]) -> list[WorkerGone]:
            return [report for report in reports if isinstance(report, WorkerGone)]

        return gone(self.until(lambda reports: bool(gone(reports)), "a WorkerGone"))[0]


def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait for something that no event tells of."""
    pause, looks = threading.Event(), 0
    while not true():
        looks += 1
        assert looks < DEADLINE * 1000, f"{what}: not within {DEADLINE} s"
        pause.wait(0.001)


def in_threads(*works: Callable[[], object]) -> None:
    """Run them at the same time, wait for all, and raise the first failure."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as failure:  # noqa: BLE001  (raised again below)
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"{thread.name} does not end"
    if failures:
        raise failures[0]
