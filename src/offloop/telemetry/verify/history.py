"""Lines put together: the runs that wrote them and the requests they speak of.

Owns identity (which process, which request), order, and what the absence of a line proves. It judges no promise.

Two orders are used. Times are compared within one boot only. What one event loop did in which order is told by `seq`,
exactly: an event's time may have been read a little before it was written down.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from offloop.telemetry.verify.lines import GAP, Line

LAG = 0.010
"""Seconds of lag of the event loop below which the bounds hold."""
EXACT = 1e-6
"""Seconds below which two sums of floats are the same instant."""

WEB = frozenset("arrive admit reject waiter_add enqueue terminal waiter_del late_drop disconnect drain_begin".split())
"""Kinds that only the process with the waiters writes."""
LOOP = frozenset("dequeue start finish".split())
"""Kinds that a loop writes, wherever it runs."""


class Run:
    """What one process wrote from its `open` on, in its own order.

    Attributes:
        whole: whether no line is missing between its first and its last; nothing follows from a line's absence if not.
        worker: whether it is a worker process's, which has no waiters.
        mode, namespace: as in `open`; empty where there is none.
        shared: whether its requests lie at a broker, and other processes have a part in what becomes of them.
        bounded_together: whether the broker counts what waits, for all web processes; over Celery each counts its own.
        opening, closing: its `open` and `close`, or None.
        queue_limit, max_deliveries: as in `open`; 0 where it does not say.
        horizon: the time of the latest line.
    """

    def __init__(self, lines: list[Line], *, whole: bool) -> None:
        self.lines = lines
        self.boot = lines[0].boot
        self.opening = lines[0] if lines[0].kind == "open" else None
        self.mode = self.opening.mode if self.opening else ""
        self.namespace = self.opening.namespace if self.opening else ""
        self.shared = self.mode in ("cluster", "celery")
        self.bounded_together = self.mode == "cluster"
        self.queue_limit = self.opening.limit if self.opening else 0
        self.max_deliveries = int(self.opening.value) if self.opening else 0
        self.worker = self.mode == "worker" or not (self.opening or any(line.kind in WEB for line in lines))
        self.whole = whole and (self.worker or self.opening is not None)
        self.closing = next((line for line in lines if line.kind == "close"), None)
        self.horizon = max(line.t for line in lines)
        self.loops = any(line.kind in LOOP for line in lines)
        self._lags = sorted((lag.t - lag.value, lag.t) for lag in self.of("lag") if lag.value >= LAG)

    @property
    def name(self) -> str:
        first = self.lines[0]
        return f"process {first.pid} on {first.host}" if first.host else "the process"

    def of(self, kind: str) -> Iterator[Line]:
        return (line for line in self.lines if line.kind == kind)

    def over(self, when: float) -> bool:
        """Whether what was due at `when` would be in this log if it had happened."""
        return self.whole and (self.closing is not None or self.horizon > when + EXACT)

    def until(self, since: float, bound: float) -> float:
        """The latest instant at which something due within `bound` seconds of `since` is excused.

        A lag that overlaps the time it had makes the bound begin anew when the lag has ended: the loop may have been
        held up, but once it runs again it has no more time than before.
        """
        latest = since + bound
        for began, ended in self._lags:
            if began <= latest and ended >= since:
                latest = max(latest, ended + bound)
        return latest


class Request:
    """All that was said of one rid, in order of time within each kind."""

    def __init__(self, rid: str) -> None:
        self.rid = rid
        self.run: Run | None = None
        self._said: defaultdict[str, list[Line]] = defaultdict(list)

    def add(self, line: Line, run: Run) -> None:
        self._said[line.kind].append(line)
        if self.run is None and line.kind in WEB:
            self.run = run

    def all(self, kind: str) -> list[Line]:
        return self._said.get(kind, [])

    def first(self, kind: str) -> Line | None:
        lines = self._said.get(kind)
        return lines[0] if lines else None

    @property
    def earliest(self) -> Line:
        """The first that was said of it."""
        return next(iter(self._said.values()))[0]

    @property
    def ended(self) -> Line | None:
        return self.first("terminal")

    def served_by(self, end: Line) -> list[Line]:
        """The finishes that this outcome may stand for."""
        return [
            finish for finish in self.all("finish") if finish.attempt == end.attempt and finish.outcome == end.outcome
        ]


class History:
    """Every run and every request of all logs that were given."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.runs = _runs(lines)
        self.web = [run for run in self.runs if not run.worker]
        self.requests: dict[str, Request] = {}
        self._of: defaultdict[int, list[Request]] = defaultdict(list)
        told = sorted(
            ((line, run) for run in self.runs for line in run.lines if line.rid),
            key=lambda pair: (pair[0].boot, pair[0].t, pair[0].seq),
        )
        for line, run in told:
            request = self.requests.get(line.rid)
            if request is None:
                request = self.requests[line.rid] = Request(line.rid)
            request.add(line, run)
        for request in self.requests.values():
            if request.run is not None:
                self._of[id(request.run)].append(request)
        self.workers = [run for run in self.runs if run.worker]
        self._workers_whole = bool(self.workers) and all(run.whole and run.closing for run in self.workers)
        self._told = {run.opening.worker for run in self.workers if run.whole and run.opening}

    def admitted(self) -> Iterator[tuple[Request, Line, Run]]:
        """Requests with their `admit` and the run that admitted them. One that was rejected too is promise 1's."""
        for request in self.requests.values():
            admit = request.first("admit")
            if admit is not None and request.run is not None and not request.all("reject"):
                yield request, admit, request.run

    def of(self, run: Run) -> list[Request]:
        """The requests that arrived at one run."""
        return self._of[id(run)]

    def hears(self, run: Run) -> bool:
        """Whether what this run's loops did is in the logs without a gap: then what is not there did not happen.

        The workers of a cluster write their own logs, a line at once: one that was killed has left nothing out. Over
        Celery a worker is announced under the name that those of its processes begin with.
        """
        if run.shared:
            there = {line.worker for line in run.of("worker_up")}
            told = self._told if run.bounded_together else self._told | {name.partition(".")[0] for name in self._told}
            return run.whole and bool(there) and there <= told
        return run.whole and (run.mode == "thread" or run.loops or self._workers_whole)


def after(later: Line, earlier: Line) -> bool:
    """Whether one certainly came after the other: the same boot, and not a tie."""
    return later.boot == earlier.boot and later.t > earlier.t


def _runs(lines: Iterable[Line]) -> list[Run]:
    written: defaultdict[tuple[str, str, int, str], list[Line]] = defaultdict(list)
    for line in lines:
        written[line.boot, line.host, line.pid, line.run].append(line)
    return [run for own in written.values() for run in _lives(own)]


def _lives(own: list[Line]) -> Iterator[Run]:
    """One process's lines as runs: each `open` begins one."""
    lost = any(line.lost for line in own)
    own = [line for line in own if line.kind != GAP]
    if any(line.seq for line in own):  # otherwise they stand in the order in which they were made
        own.sort(key=lambda line: line.seq)
        headless = own[0].seq > 1 and own[0].kind != "open"
        lost = lost or headless or own[-1].seq - own[0].seq + 1 != len({line.seq for line in own})
    life: list[Line] = []
    for line in own:
        if line.kind == "open" and life:
            yield Run(life, whole=not lost)
            life = []
        life.append(line)
    if life:
        yield Run(life, whole=not lost)
