"""The crew: which worker holds what, and what a death, a hang or a late reply means for it.

Owns who is there, who is free, who is overdue (nobody waits for what it runs any more) and who is wedged (overdue for
longer than the grace). In thread mode a worker is one loop; in process mode it is one process with some loops. It
decides that a worker is to be replaced; it never starts or ends one.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush

ANYONE = ""
"""Where work is handed out to a buffer that all loops share."""


@dataclass(slots=True)
class Worker:
    """One of the crew. `running` and `buffered` are rids, in the order in which they came."""

    name: str
    loops: int
    running: dict[str, None] = field(default_factory=dict)
    buffered: dict[str, None] = field(default_factory=dict)
    overdue: set[str] = field(default_factory=set)
    wedged: bool = False
    replaced: bool = False

    @property
    def held(self) -> int:
        return len(self.running) + len(self.buffered)


class Crew:
    """All workers of one web process.

    Args:
        shared: work lies in one buffer that every loop takes from; otherwise it is handed to a worker with a free loop.
        kill_grace: seconds past its deadline that a node may hold its loop.
        spare: how many fresh workers may stand beside wedged ones that still hold their threads; None: no bound,
            because a wedged worker is ended before it is replaced.
        read_ahead: how many more than its loops one worker may be handed.

    Attributes:
        usable: how many workers can take work, now or when what they run has ended.
    """

    def __init__(self, *, shared: bool, kill_grace: float, spare: int | None = None, read_ahead: int = 0) -> None:
        self._shared = shared
        self._kill_grace = kill_grace
        self._spare = spare
        self._read_ahead = read_ahead
        self._workers: dict[str, Worker] = {}
        self._holder: dict[str, Worker] = {}
        self._abandoned: dict[str, float] = {}
        self._watch: list[tuple[float, str]] = []
        self.usable = 0

    # ---- who is there

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def __len__(self) -> int:
        return len(self._workers)

    def states(self) -> dict[str, int]:
        """How many workers are idle, busy, overdue and wedged."""
        counts = {"idle": 0, "busy": 0, "overdue": 0, "wedged": 0}
        for worker in self._workers.values():
            counts[state_of(worker)] += 1
        return counts

    def up(self, name: str, loops: int) -> None:
        """A worker is ready."""
        self._workers[name] = Worker(name, loops)
        self.usable += 1

    def gone(self, name: str) -> tuple[list[str], list[str]]:
        """A worker is no more. Returns the rids it was running and those it had not begun, in order."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return [], []
        if not worker.wedged:
            self.usable -= 1
        running, buffered = list(worker.running), list(worker.buffered)
        for rid in (*running, *buffered):
            del self._holder[rid]
            self._abandoned.pop(rid, None)
        return running, buffered

    # ---- who holds what

    def place(self) -> str | None:
        """Who is to have the next request: the least busy worker with room, `ANYONE`, or None while all are full."""
        if self._shared:
            return ANYONE
        free = [w for w in self._workers.values() if not w.wedged and w.held < w.loops + self._read_ahead]
        return min(free, key=lambda worker: worker.held / worker.loops).name if free else None

    def hand(self, rid: str, name: str) -> None:
        """It was sent there and has not begun."""
        if name != ANYONE:
            worker = self._workers[name]
            worker.buffered[rid] = None
            self._holder[rid] = worker

    def begun(self, rid: str, name: str) -> None:
        """That worker has claimed it. A worker that is unknown (it has gone since) holds nothing."""
        worker = self._workers.get(name)
        if worker is None:
            return
        worker.buffered.pop(rid, None)
        worker.running[rid] = None
        self._holder[rid] = worker
        if rid in self._abandoned:
            self._mark(rid, worker)

    def freed(self, rid: str, by: str = "") -> None:
        """Its loop, or its place in a worker's buffer, is free. A wedged worker that was not replaced may go on.

        `by` is the worker that says so, where one does: of what another holds by now it frees nothing.
        """
        worker = self._holder.get(rid)
        if worker is not None and by and worker.name != by:
            return
        self._abandoned.pop(rid, None)
        if worker is None:
            return
        del self._holder[rid]
        worker.running.pop(rid, None)
        worker.buffered.pop(rid, None)
        worker.overdue.discard(rid)
        if worker.wedged and not worker.replaced and not worker.overdue:
            worker.wedged = False
            self.usable += 1

    # ---- what nobody waits for any more

    def abandon(self, rid: str, deadline: float) -> None:
        """Nobody waits for it; it has begun, or is about to. Its loop counts as held until it is freed."""
        self._abandoned[rid] = deadline
        worker = self._holder.get(rid)
        if worker is not None and rid in worker.running:
            self._mark(rid, worker)

    def _mark(self, rid: str, worker: Worker) -> None:
        worker.overdue.add(rid)
        heappush(self._watch, (self._abandoned[rid] + self._kill_grace, rid))

    def due(self, now: float) -> list[str]:
        """The workers that have become wedged by now, each once."""
        found = []
        while self._watch and self._watch[0][0] <= now:
            _, rid = heappop(self._watch)
            worker = self._holder.get(rid)
            if worker is not None and rid in worker.overdue and not worker.wedged:
                worker.wedged = True
                self.usable -= 1
                found.append(worker.name)
        return found

    def next_at(self) -> float | None:
        """When a worker may next become wedged."""
        while self._watch and self._watch[0][1] not in self._abandoned:
            heappop(self._watch)
        return self._watch[0][0] if self._watch else None

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
