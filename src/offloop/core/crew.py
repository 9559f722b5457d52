"""The crew: which worker holds what; what a death, a hang or a late reply means for it.

Owns who is there, who is free, who is overdue (nobody waits for what it runs any more), who is wedged (overdue for
longer than the grace), who has a successor, and whether work may be queued at all. In thread mode a worker is one loop;
in process mode it is one process with some loops. It decides that a worker is to be replaced; it never starts or ends
one.

Reading ahead: a worker whose loops are all busy may be handed a little more, so that it need not wait for the web side
between two short requests, and one system call serves several. Only while all that it holds is expected to be done in
`AHEAD`; and what lies there for longer than `STRANDED` while a loop elsewhere is free, or for longer than `STUCK`, is
taken back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice

import msgspec

from offloop.core.durations import AHEAD, Durations

ANYONE = ""
"""Where work is handed out to a buffer that all loops share."""
STRANDED = 0.005
"""Seconds that a request may lie with a busy worker while another is free."""
STUCK = 0.05
"""Seconds that it may lie there though none is: its turn is long past, and the next that is free is to have it."""
PATIENCE = 5.0
"""Seconds for which work is queued though the last worker has died: another is on its way."""
FAILED_STARTS = 2
"""So many starts in a row that failed, and nobody is believed to be on the way any more."""


@dataclass(slots=True)
class Worker:
    """One of the crew. `running` and `buffered` hold rids, in the order in which they came.

    Attributes:
        buffered: when each was handed; infinite once it was asked back.
        held: how many both of them hold.
        expected: microseconds that all it holds may take.
        stuck: something was asked back from it, and it has ended nothing since: what it runs takes longer than
            expected, and what was taken back is not to lie there again.
        retired: it has a successor, and is handed no more.
    """

    name: str
    loops: int
    rank: int = 0
    running: dict[str, None] = field(default_factory=dict)
    buffered: dict[str, float] = field(default_factory=dict)
    overdue: set[str] = field(default_factory=set)
    held: int = 0
    expected: int = 0
    stuck: bool = False
    wedged: bool = False
    replaced: bool = False
    retired: bool = False

    @property
    def usable(self) -> bool:
        return not self.wedged and not self.retired


class Holding(msgspec.Struct):
    """Where a request is, and the microseconds that it was expected to take."""

    worker: Worker
    expected: int


class Crew:
    """All workers of one web process.

    Args:
        shared: work lies in one buffer that every loop takes from; otherwise it is handed to a worker with room.
        kill_grace: seconds past its deadline that a node may hold its loop.
        spare: how many fresh workers may stand beside wedged ones that still hold their threads; None: no bound,
            because a wedged worker is ended before it is replaced.
        read_ahead: how many more than its loops one worker may be handed at most.

    Attributes:
        shared: as given.
        usable: how many workers can take work, now or when what they run has ended.
        took: called with an endpoint, and for how many seconds a request of it has run.
    """

    def __init__(self, *, shared: bool, kill_grace: float, spare: int | None = None, read_ahead: int = 0) -> None:
        self.shared = shared
        self.usable = 0
        self._kill_grace = kill_grace
        self._spare = spare
        self._read_ahead = read_ahead
        self._durations = Durations()
        self.took = self._durations.took
        self._workers: dict[str, Worker] = {}
        self._holdings: dict[str, Holding] = {}
        self._abandoned: dict[str, float] = {}
        self._watch: list[tuple[float, str]] = []
        self._ahead = 0  # of all that is held, how many are more than their workers have loops
        self._failed_starts = 0
        self._vacant_since: float | None = None

    # ---- who is there

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def __len__(self) -> int:
        return len(self._workers)

    def states(self) -> dict[str, int]:
        """How many workers are idle, busy, overdue and wedged. Whoever is about to leave and runs nothing is none."""
        counts = {"idle": 0, "busy": 0, "overdue": 0, "wedged": 0}
        for worker in self._workers.values():
            state = state_of(worker)
            if state != "idle" or not worker.retired:
                counts[state] += 1
        return counts

    def available(self, now: float, endpoint: str = "") -> bool:
        """Whether work may be queued: somebody can take it, or has died so lately that another is on the way.

        Whatever endpoint it is for: here everybody has all.
        """
        if self.usable:
            return True
        since = self._vacant_since
        return since is not None and now - since < PATIENCE and self._failed_starts < FAILED_STARTS

    def up(self, name: str, loops: int, replaces: str = "", rank: int = 0) -> None:
        """A worker is ready. Who it replaces ends what it holds, and is handed no more.

        Of a lower `rank` one is asked before others, where they have equally much to do: few then do what few can do.
        """
        self._workers[name] = Worker(name, loops, rank)
        self._workers = dict(sorted(self._workers.items(), key=lambda item: item[1].rank))
        self.usable += 1
        self._failed_starts = 0
        before = self._workers.get(replaces)
        if before is not None:
            self.usable -= before.usable
            before.retired = True

    def failed(self) -> None:
        """A worker could not be started."""
        self._failed_starts += 1

    def gone(self, name: str, now: float) -> tuple[list[str], list[str]]:
        """A worker is no more. Returns the rids it was running and those it had not begun, in order."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return [], []
        self._lose(worker.usable, now)
        self._ahead -= max(0, worker.held - worker.loops)
        running, buffered = list(worker.running), list(worker.buffered)
        for rid in (*running, *buffered):
            del self._holdings[rid]
            self._abandoned.pop(rid, None)
        return running, buffered

    def _lose(self, count: int, now: float) -> None:
        self.usable -= count
        if count and not self.usable and not self.shared:
            self._vacant_since = now

    # ---- who holds what

    def place(self, endpoint: str) -> str | None:
        """Who is to have the next request: the least busy worker with room, `ANYONE`, or None while all are full."""
        if self.shared:
            return ANYONE
        chosen, least = None, float("inf")
        for worker in self._workers.values():
            if worker.wedged or worker.retired:
                continue
            load = worker.held / worker.loops
            if load < least and (load < 1.0 or self._has_room(worker, endpoint)):
                chosen, least = worker.name, load
        return chosen

    def _has_room(self, worker: Worker, endpoint: str) -> bool:
        """Whether it may be handed one more though its loops are busy."""
        expected = worker.expected + self._durations.expected(endpoint)
        surprised = worker.stuck or worker.overdue
        return not surprised and worker.held < worker.loops + self._read_ahead and expected <= AHEAD * worker.loops

    def hand(self, rid: str, name: str, endpoint: str, now: float) -> None:
        """It was sent there and has not begun."""
        worker = self._workers[name]
        worker.buffered[rid] = now
        self._hold(rid, worker, self._durations.expected(endpoint))

    def _hold(self, rid: str, worker: Worker, expected: int) -> None:
        self._holdings[rid] = Holding(worker, expected)
        worker.held += 1
        worker.expected += expected
        if worker.held > worker.loops:
            self._ahead += 1

    def _let_go(self, rid: str, holding: Holding) -> None:
        worker = holding.worker
        del self._holdings[rid]
        if worker.held > worker.loops:
            self._ahead -= 1
        worker.held -= 1
        worker.expected -= holding.expected
        worker.running.pop(rid, None)
        worker.buffered.pop(rid, None)
        worker.overdue.discard(rid)

    def begun(self, rid: str, name: str) -> None:
        """That worker has claimed it. A worker that is unknown (it has gone since) holds nothing."""
        worker = self._workers.get(name)
        if worker is None:
            return
        holding = self._holdings.get(rid)
        if holding is None:
            self._hold(rid, worker, 0)
        elif holding.worker is not worker:
            self._let_go(rid, holding)
            self._hold(rid, worker, 0)
        worker.buffered.pop(rid, None)
        worker.running[rid] = None
        if rid in self._abandoned:
            self._mark(rid, worker)

    def ran(self, endpoint: str, seconds: float) -> None:
        """A request of that endpoint has run for so long, and has not ended."""
        self._durations.ran(endpoint, seconds)

    def freed(self, rid: str, by: str = "") -> None:
        """Its loop, or its place in a worker's buffer, is free. A wedged worker that was not replaced may go on.

        `by` is the worker that says so, where one does: of what another holds by now it frees nothing.
        """
        holding = self._holdings.get(rid)
        if holding is not None and by and holding.worker.name != by:
            return
        self._abandoned.pop(rid, None)
        if holding is None:
            return
        worker = holding.worker
        self._let_go(rid, holding)
        if by:
            worker.stuck = False
        if worker.wedged and not worker.replaced and not worker.overdue:
            worker.wedged = False
            self.usable += worker.usable

    # ---- what lies with a busy worker for too long

    @property
    def reads_ahead(self) -> bool:
        """Whether anything is held that no loop has been free for."""
        return self._ahead > 0

    def stranded(self, now: float) -> list[str]:
        """What is to be taken back by now, each once, in the order in which it was handed out by its worker."""
        found = []
        for worker, rid, due in self._behind():
            if due <= now:
                worker.buffered[rid] = float("inf")
                worker.stuck = True
                found.append(rid)
        return found

    def asked(self, rid: str) -> None:
        """It was asked back for another reason, and need not be once more."""
        holding = self._holdings.get(rid)
        if holding is not None and rid in holding.worker.buffered:
            holding.worker.buffered[rid] = float("inf")

    def _behind(self) -> Iterator[tuple[Worker, str, float]]:
        """All that waits for a loop of its worker, and when it is to be taken back."""
        if not self._ahead:
            return
        free = any(worker.usable and worker.held < worker.loops for worker in self._workers.values())
        patience = STRANDED if free else STUCK
        for worker in self._workers.values():
            if worker.held > worker.loops:
                first = max(0, worker.loops - len(worker.running))
                for rid, since in tuple(islice(worker.buffered.items(), first, None)):
                    yield worker, rid, since + patience

    # ---- what nobody waits for any more

    def abandon(self, rid: str, deadline: float) -> None:
        """Nobody waits for it; it has begun, or is about to. Its loop counts as held until it is freed."""
        self._abandoned[rid] = deadline
        holding = self._holdings.get(rid)
        if holding is not None and rid in holding.worker.running:
            self._mark(rid, holding.worker)

    def _mark(self, rid: str, worker: Worker) -> None:
        worker.overdue.add(rid)
        heappush(self._watch, (self._abandoned[rid] + self._kill_grace, rid))

    def due(self, now: float) -> list[str]:
        """The workers that have become wedged by now, each once."""
        found = []
        while self._watch and self._watch[0][0] <= now:
            _, rid = heappop(self._watch)
            holding = self._holdings.get(rid)
            if holding is not None and rid in holding.worker.overdue and not holding.worker.wedged:
                worker = holding.worker
                usable = worker.usable
                worker.wedged = True
                self._lose(usable, now)
                found.append(worker.name)
        return found

    def next_at(self) -> float | None:
        """When a worker may next become wedged, or something is to be taken back."""
        while self._watch and self._watch[0][1] not in self._abandoned:
            heappop(self._watch)
        wedged = self._watch[0][0] if self._watch else float("inf")
        stranded = min((due for _, _, due in self._behind()), default=float("inf"))
        first = min(wedged, stranded)
        return first if first < float("inf") else None

    def replaceable(self) -> list[str]:
        """The wedged workers that are to be replaced now; they count as replaced from here on."""
        chosen = []
        standing = sum(1 for worker in self._workers.values() if worker.replaced)
        for worker in self._workers.values():
            if worker.wedged and not worker.replaced and (self._spare is None or standing < self._spare):
                worker.replaced = True
                standing += 1
                chosen.append(worker.name)
        return chosen


def state_of(worker: Worker) -> str:
    """`wedged`, `overdue`, `busy` or `idle`, the first that holds."""
    if worker.wedged:
        return "wedged"
    if worker.overdue:
        return "overdue"
    return "busy" if worker.running else "idle"
