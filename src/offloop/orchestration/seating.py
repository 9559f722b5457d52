"""Seats at the broker, as a supervisor gives them to the loops of its workers.

Owns what loops say of seats, for how long one more is kept than were enough, and what is seen of those that cannot say
anything: a seat is no use to who runs the same request at two looks, or is stopped. Who gets one is `core/seats`'s to
say.
"""

from collections.abc import Callable, Sequence

from offloop.core.seats import Seats, Sitter
from offloop.transports.local.frames import Asks, Crowded, Leaves, Sit, Stand

LOOK_EVERY = 0.05
"""Seconds between two looks at those that sit: while a seat is held up, others may stand for nothing."""
CALM = 20
"""Looks between which nobody says that those who sit are too few, after which one of them is tried to do without."""


class Seating:
    """Of one host's workers.

    Args:
        most: how many there may be.
        tell: sends an order to a worker.
        holds: the deadline of what a loop of a worker runs; 0.0: nothing.
        halted: whether a worker cannot go on, or is no more.
    """

    def __init__(
        self,
        most: int,
        tell: Callable[[str, Sit | Stand], None],
        holds: Callable[[str, int], float],
        halted: Callable[[str], bool],
    ) -> None:
        self._seats = Seats(most)
        self._tell = tell
        self._holds = holds
        self._halted = halted
        self._seen: dict[Sitter, float] = {}
        self._calm = 0

    def said(self, worker: str, said: Asks | Leaves | Crowded) -> None:
        if isinstance(said, Crowded):
            self._more()
            return
        who = Sitter(worker, said.loop, said.turn)
        self._call(self._seats.asks(who) if isinstance(said, Asks) else self._seats.leaves(who))

    def gone(self, worker: str) -> None:
        """It is no more."""
        self._call(self._seats.gone(worker))

    def look(self) -> None:
        """Take seats from those that have no use for them. One that was taken goes on until its loop notices."""
        seen = {}
        for who in self._seats.sitting:
            halted = self._halted(who.worker)
            seen[who] = 0.0 if halted else self._holds(who.worker, who.loop)
            if halted or (seen[who] and seen[who] == self._seen.get(who)):
                self._call(self._seats.leaves(who))
                self._more()  # what has happened may happen again, and is not to leave nobody there then
        self._seen = seen
        self._calm += 1
        if self._calm >= CALM:
            self._calm = 0
            if (last := self._seats.fewer()) is not None:
                self._tell(last.worker, Stand(last.loop, last.turn))

    def _more(self) -> None:
        self._calm = 0
        self._call(self._seats.more())

    def _call(self, called: Sequence[Sitter]) -> None:
        for who in called:
            self._tell(who.worker, Sit(who.loop, who.turn))
