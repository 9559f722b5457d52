"""What the web side can know of its worker processes, kept a second time and in another way.

Owns the account of one history: who is up, what each was handed and has not been heard of again, how long each
endpoint's requests took, since when nobody can take work. It is told by the reports as they are read, by what is handed
out and asked back, and by the events; it reads nothing from the crew. It judges what a crew decides.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from offloop.core.crew import AHEAD, FAILED_STARTS, PATIENCE, STRANDED
from offloop.core.durations import OVERHEAD, UNKNOWN
from offloop.events import Event
from offloop.messages import Begun, Envelope, Freed, Outcome, Refused, Report, Withdrawn, WorkerGone, WorkerUp

LOOKS_WITHIN = 0.004
"""Seconds that a timer may be late, and what it leads to may take."""


@dataclass
class Lent:
    """One request with a worker."""

    endpoint: str
    attempt: int
    at: float
    expected: int
    begun: bool = False
    asked: bool = False


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


class Account:
    """Of worker processes; threads share one buffer, and nobody decides who takes what.

    Args:
        read_ahead: how many more than its loops a worker may be handed at most.
        waits: whether that request, in that attempt, is still waited for.
        excused: the latest instant for what was due then.
    """

    def __init__(
        self,
        read_ahead: int,
        waits: Callable[[str, int], bool],
        excused: Callable[[float, float], float],
    ) -> None:
        self.seen: Counter[str] = Counter()
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

    def report(self, report: Report, now: float) -> None:
        """Before it is applied."""
        match report:
            case WorkerUp():
                self._up(report)
            case WorkerGone():
                self._gone(report, now)
            case Begun(rid=rid, worker=name) if name in self._workers and rid in self._workers[name].lent:
                self._workers[name].lent[rid].begun = True
            case Outcome(last=True):
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
        endpoint = self._back(outcome.rid, outcome.worker)
        if endpoint and outcome.begun_at and self._waits(outcome.rid, outcome.attempt):
            before = self._took.get(endpoint, 0)
            latest = int((outcome.ended_at - outcome.begun_at) * 1e6) + OVERHEAD
            self._took[endpoint] = latest if latest >= before else before - (before - latest) // 8

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

    def asked_back(self, rid: str, answer: bool | None, *, stranded: bool) -> None:
        """`stranded`: because another is free, and not because nobody waits for it."""
        for worker in self._workers.values():
            if rid in worker.lent:
                worker.lent[rid].asked = True
                worker.stuck = worker.stuck or stranded
                self.seen["asked back"] += stranded
                self.seen["asked and not answered at once"] += stranded and answer is None
        if answer:
            self._back(rid)
            self._given_back.add(rid)

    # ---- what it judges

    def handed(self, envelope: Envelope, name: str, now: float) -> None:
        """Work is handed to a free loop where there is one, and to a busy one only if all of it will soon be done."""
        worker = self._workers[name]
        assert worker.usable, f"{name} may have no more, and was handed {envelope.rid}"
        expected = self._took.get(envelope.endpoint, UNKNOWN)
        least = min(len(other.lent) / other.loops for other in self._workers.values() if other.usable)
        if len(worker.lent) >= worker.loops:
            self.seen["ahead"] += 1
            assert not any(other.free for other in self._workers.values()), "it is read ahead, and a loop is free"
            assert len(worker.lent) < worker.loops + self._read_ahead, f"{name} was handed more than it has room for"
            work = expected + sum(lent.expected for lent in worker.lent.values())
            assert work <= AHEAD * worker.loops, f"{name} has {work} us of work, and was handed more"
            overdue = [rid for rid, lent in worker.lent.items() if lent.begun and not self._waits(rid, lent.attempt)]
            assert not worker.stuck, f"{name} was handed {envelope.rid}, and ends nothing"
            assert not overdue, f"{name} was handed {envelope.rid}, and runs {overdue} for nobody"
        else:
            assert len(worker.lent) / worker.loops == least, f"{name} is not the least busy"
        if envelope.rid in self._given_back:
            self._given_back.discard(envelope.rid)
            self.seen["taken back and handed again"] += 1
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

    def look(self, now: float) -> None:
        """After everything that happens on the event loop."""
        self._vacated(now)
        free = {name for name, worker in self._workers.items() if worker.free}
        self._free_since = {name: self._free_since.get(name, now) for name in free}
        if not free:
            return
        free_since = min(self._free_since.values())
        for name, worker in self._workers.items():
            if len(worker.lent) <= worker.loops:
                continue
            waiting = [(rid, lent) for rid, lent in worker.lent.items() if not lent.begun]
            for rid, lent in waiting[max(0, worker.loops - (len(worker.lent) - len(waiting))) :]:
                until = self._excused(max(lent.at + STRANDED, free_since), LOOKS_WITHIN)
                assert lent.asked or now <= until, f"{rid} lies with {name}, which is busy, and {free} are free"
