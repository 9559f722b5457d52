"""How the reports of a plant travel: what the web side reads when, and in which order.

Owns what was sent and not read, and what workers' tables say and nobody has told. It judges nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from random import Random

from offloop.messages import Begun, Chunk, Freed, Outcome, Progressed, Refused, Report, WorkerGone
from tests.simulation.world import World


class Wire:
    """The way back from all workers.

    Args:
        shared: the workers are threads of the web process.
        table: whether beginnings are seen in shared memory when the web side looks, or sent as reports.

    Attributes:
        note: told of each report before it is applied, `applied` after it.
        receive: applies all that was read at once.
        reading: there are reports that were read and are not applied yet.
    """

    def __init__(
        self, world: World, random: Random, applied: Callable[[Report], None], *, shared: bool, table: bool
    ) -> None:
        self.note: Callable[[Report], None] = lambda report: None
        self.receive: Callable[[Iterable[Report]], None] = lambda reports: None
        self.reading = False
        self.closed = False
        self._world = world
        self._random = random
        self._applied = applied
        self._shared = shared
        self._table = table and not shared
        self._unread: deque[tuple[str, Report]] = deque()
        self._untold: dict[str, Begun] = {}
        self._armed = False

    def send(self, name: str, report: Report) -> None:
        """That worker has said so."""
        if self._table and isinstance(report, Begun):
            self._untold[report.rid] = report
            return
        self._unread.append((name, report))
        if not self._armed and type(report) is not Begun:
            self._armed = True
            self._world.after(self._random.uniform(0.0, 0.001), self._woken, web=True)

    def retract(self, rid: str) -> None:
        """Whoever was refused was taken back before anybody heard of it."""
        self._unread = deque(
            (name, report) for name, report in self._unread if not (isinstance(report, Refused) and report.rid == rid)
        )

    def _woken(self) -> None:
        self._armed = False
        self.settle_all()

    def settle_all(self) -> None:
        """Everything that was sent."""
        if not self.closed:
            read: list[Report] = []
            while self._unread:
                name, report = self._unread.popleft()
                self._tell_begun(name, report, read)
                read.append(report)
            self.apply(read)

    def settle(self) -> None:
        """All that was sent, between threads; between processes what their tables say, or all before their last word.

        What a table says may overtake what its worker has sent: it lies in memory, and the rest in a socket.
        """
        if self._shared or self.closed:
            self.settle_all()
        elif self._table:
            begun, self._untold = [*self._untold.values()], {}
            self.apply(begun)
        else:
            self._settle_before_the_last_word()

    def _settle_before_the_last_word(self) -> None:
        evident: set[str] = set()
        read, kept = [], deque[tuple[str, Report]]()
        while self._unread:
            name, report = self._unread.pop()
            if type(report) is Begun:
                evident.add(name)
            if name in evident:
                read.append(report)
            else:
                kept.appendleft((name, report))
        self._unread = kept
        self.apply(read[::-1])

    def _tell_begun(self, name: str, report: Report, read: list[Report]) -> None:
        """What a table says is told before what follows from it. An outcome that is the last says it itself."""
        if isinstance(report, WorkerGone):
            left = [rid for rid, begun in self._untold.items() if begun.worker == name]
            read.extend(self._untold.pop(rid) for rid in left)
        elif isinstance(report, Begun | Chunk | Progressed | Outcome | Freed):
            known = self._untold.get(report.rid)
            if known is not None and known.worker == name:
                del self._untold[report.rid]
                if not (isinstance(report, Outcome) and report.last):
                    read.append(known)

    def apply(self, reports: list[Report]) -> None:
        """All at once, and whoever takes notes sees the instant before each and the one after."""
        if reports:
            self.receive(self._telling(reports))

    def _telling(self, reports: list[Report]) -> Iterator[Report]:
        self.reading = True
        for report in reports:
            self.note(report)
            yield report
            self._applied(report)
        self.reading = False
