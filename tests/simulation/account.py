"""What the web side can know of its worker processes, kept a second time and in another way.

Owns the account of one history: who is up, what each was handed and has not been heard of again, how long each
endpoint's requests took, since when nobody can take work. It is told by the reports as they are read, by what is handed
out and asked back, and by the events; it reads nothing from the crew. It judges what a crew decides.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from offloop.core.crew import AHEAD, FAILED_STARTS, PATIENCE, STRANDED, STUCK
from offloop.core.durations import OVERHEAD, UNKNOWN
from offloop.events import Event
from offloop.messages import Begun, Envelope, Freed, Outcome, Refused, Report, Withdrawn, WorkerGone, WorkerUp

LOOKS_WITHIN = 0.004
"""Seconds that a timer may be late, and what it leads to may take."""


@dataclass
class Lent:
    """One request with a worker.

    Attributes:
        read_at: when something was read from any worker for the first time after it was handed out.
        begun_at: as its worker said; 0.0 before that is read.
        asked: it was asked back, and need not be once more.
        replied: its outcome is told, and its work goes on.
    """

    endpoint: str
    attempt: int
    at: float
    expected: int
    read_at: float = float("inf")
    begun_at: float = 0.0
    asked: bool = False
    replied: bool = False


@dataclass
class Worker:
    loops: int
    lent: dict[str, Lent] = field(default_factory=dict)
    retired: bool = False
    wedged: bool = False
    stuck: bool = False

    @property
    def usable(self) -> bool:
        return not (self.retired or self.wedged)

    @property
    def free(self) -> bool:
        return self.usable and len(self.lent) < self.loops

    def behind(self) -> dict[str, Lent]:
        """What it holds that waits for a loop, but for what is about to begin in one that is free."""
        waiting = [(rid, lent) for rid, lent in self.lent.items() if not lent.begun_at]
        return dict(waiting[max(0, self.loops - (len(self.lent) - len(waiting))) :])


class Account:
    """Of worker processes; threads share one buffer, and nobody decides who takes what.

    Args:
        timeouts: seconds, by endpoint.
        read_ahead: how many more than its loops a worker may be handed at most.
        waits: whether that request, in that attempt, is still waited for.
        excused: the latest instant for what was due then.
    """

    def __init__(
        self,
        timeouts: Mapping[str, float],
        read_ahead: int,
        waits: Callable[[str, int], bool],
        excused: Callable[[float, float], float],
    ) -> None:
        self.seen: Counter[str] = Counter()
        self._timeouts = timeouts
        self._read_ahead = read_ahead
        self._waits = waits
        self._excused = excused
        self._workers: dict[str, Worker] = {}
        self._took: dict[str, int] = {}
        self._failed_starts = 0
        self._vacant_since: float | None = None
        self._free_since: dict[str, float] = {}
        self._given_back: set[str] = set()

    # ---- what it is told

    def event(self, event: Event) -> None:
        if event.kind == "overdue":
            self._workers[event.worker].wedged = True
            self.seen["wedged"] += 1
            self._vacated(event.t)
        elif event.kind == "terminal":
            self._cut_short(event.rid, event.t)

    def report(self, report: Report, now: float) -> None:
        """Before it is applied."""
        for worker in self._workers.values():
            for lent in worker.lent.values():
                lent.read_at = min(lent.read_at, now)
        match report:
            case WorkerUp():
                self._up(report)
            case WorkerGone():
                self._gone(report, now)
            case Begun(rid=rid, worker=name) if name in self._workers and rid in self._workers[name].lent:
                self._workers[name].lent[rid].begun_at = report.at
            case Outcome():
                self._ended(report)
            case Freed():
                self._back(report.rid, report.worker)
            case Refused():
                self._back(report.rid)
            case Withdrawn(rid=rid, begun=False):
                self._back(rid)
                self._given_back.add(rid)

    def _up(self, report: WorkerUp) -> None:
        self.seen["up"] += 1
        self._workers[report.worker] = Worker(report.loops)
        self._failed_starts = 0
        if report.replaces in self._workers:
            self._workers[report.replaces].retired = True
            self.seen["recycled"] += 1

    def _gone(self, report: WorkerGone, now: float) -> None:
        if self._workers.pop(report.worker, None) is None:
            self._failed_starts += 1
            self.seen["failed starts"] += 1
        self._vacated(now)

    def _ended(self, outcome: Outcome) -> None:
        """Its reply has come. What goes on after it may take as long as its endpoint may."""
        if outcome.last:
            endpoint, seconds = self._back(outcome.rid, outcome.worker), outcome.ended_at - outcome.begun_at
        else:
            lent = self._workers[outcome.worker].lent[outcome.rid]
            lent.replied = True
            endpoint, seconds = lent.endpoint, self._timeouts[lent.endpoint]
            self.seen["went on after its reply"] += 1
        if endpoint and outcome.begun_at and self._waits(outcome.rid, outcome.attempt):
            before = self._took.get(endpoint, 0)
            latest = int(seconds * 1e6) + OVERHEAD
            self._took[endpoint] = latest if latest >= before else before - (before - latest) // 8

    def _cut_short(self, rid: str, now: float) -> None:
        """It ended before its work did: that takes so long, and nobody will be told how much longer."""
        for worker in self._workers.values():
            lent = worker.lent.get(rid)
            if lent is not None and lent.begun_at and not lent.replied:
                ran = int((now - lent.begun_at) * 1e6) + OVERHEAD
                self.seen["cut short"] += 1
                self.seen["cut short, and longer than was known"] += ran > self._took.get(lent.endpoint, UNKNOWN)
                if lent.endpoint in self._took:
                    self._took[lent.endpoint] = max(ran, self._took[lent.endpoint])

    def _back(self, rid: str, by: str = "") -> str:
        """It is with no worker any more; whose it was."""
        for name, worker in self._workers.items():
            if rid in worker.lent and by in ("", name):
                worker.stuck = worker.stuck and not by
                return worker.lent.pop(rid).endpoint
        return ""

    def _vacated(self, now: float) -> None:
        if any(worker.usable for worker in self._workers.values()):
            self._vacant_since = None
        elif self._vacant_since is None and self.seen["up"]:
            self._vacant_since = now

    def asked_back(self, rid: str, answer: bool | None, now: float, *, stranded: bool) -> None:
        """`stranded`: because it lies behind a busy loop for too long, and not because nobody waits for it."""
        for name, worker in self._workers.items():
            if rid in worker.lent:
                if stranded:
                    self._too_long(rid, name, now)
                    worker.stuck = True
                    self.seen["asked and not answered at once"] += answer is None
                worker.lent[rid].asked |= stranded or answer is None
        if answer:
            self._back(rid)
            self._given_back.add(rid)

    # ---- what it judges

    def _too_long(self, rid: str, name: str, now: float) -> None:
        """It is asked back: it has to lie behind a busy loop, and for so long as it must."""
        worker, lent = self._workers[name], self._workers[name].lent[rid]
        free = any(other.free for other in self._workers.values())
        self.seen["asked back for a free loop" if free else "asked back though none is free"] += 1
        assert not lent.asked, f"{rid} was asked back from {name} twice"
        assert rid in worker.behind(), f"{rid} was asked back, and is about to begin"
        assert lent.at + (STRANDED if free else STUCK) <= now, f"{rid} was asked back from {name} too early"

    def _room(self, worker: Worker, endpoint: str) -> bool:
        """Whether it is to be handed one more though its loops are busy: all it has will soon be done."""
        work = self._took.get(endpoint, UNKNOWN) + sum(lent.expected for lent in worker.lent.values())
        hangs = any(lent.begun_at and not self._waits(rid, lent.attempt) for rid, lent in worker.lent.items())
        much = len(worker.lent) >= worker.loops + self._read_ahead or work > AHEAD * worker.loops
        return worker.usable and not (much or hangs or worker.stuck)

    def handed(self, envelope: Envelope, name: str, now: float) -> None:
        """Work is handed to a free loop where there is one, and to a busy one only if all of it will soon be done."""
        worker = self._workers[name]
        assert worker.usable, f"{name} may have no more, and was handed {envelope.rid}"
        least = min(len(other.lent) / other.loops for other in self._workers.values() if other.usable)
        if len(worker.lent) >= worker.loops:
            self.seen["ahead"] += 1
            assert not any(other.free for other in self._workers.values()), "it is read ahead, and a loop is free"
            assert self._room(worker, envelope.endpoint), f"{name} was handed {envelope.rid}, and holds {worker}"
        else:
            assert len(worker.lent) / worker.loops == least, f"{name} is not the least busy"
        if envelope.rid in self._given_back:
            self._given_back.discard(envelope.rid)
            self.seen["taken back and handed again"] += 1
        expected = self._took.get(envelope.endpoint, UNKNOWN)
        worker.lent[envelope.rid] = Lent(envelope.endpoint, envelope.attempt, now, expected)

    def available(self, now: float) -> bool | None:
        """Whether work may be queued; None at the very instant at which that changes."""
        if any(worker.usable for worker in self._workers.values()):
            return True
        if self._vacant_since is None or self._failed_starts >= FAILED_STARTS:
            return False
        left = self._vacant_since + PATIENCE - now
        return None if abs(left) < 1e-5 else left > 0

    def admitted(self, now: float) -> None:
        assert self.available(now) is not False, "it was admitted, and nobody is there or on the way"
        self.seen["admitted with nobody there"] += not any(worker.usable for worker in self._workers.values())

    def refused(self, now: float) -> None:
        assert self.available(now) is not True, "it was refused, and somebody is there or on the way"
        assert self._vacant_since is None or self._failed_starts >= FAILED_STARTS or now - self._vacant_since > 4.99
        self.seen["refused for want of workers"] += 1

    def look(self, now: float, first: str | None) -> None:
        """After everything that happens on the event loop. `first` is the endpoint of the first in line."""
        self._vacated(now)
        free = {name for name, worker in self._workers.items() if worker.free}
        self._free_since = {name: self._free_since.get(name, now) for name in free}
        free_since = min(self._free_since.values(), default=float("inf"))
        for name, worker in self._workers.items():
            assert first is None or not self._room(worker, first), f"work waits, and {name} has room"
            for rid, lent in worker.behind().items():
                due = min(max(lent.at + STRANDED, free_since), lent.read_at + STUCK)
                assert lent.asked or now <= self._excused(due, LOOKS_WITHIN), f"{rid} lies behind what {name} runs"
