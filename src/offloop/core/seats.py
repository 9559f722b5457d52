"""Seats: which of a host's idle loops wait for work at the broker, where their work is quick and needs a CPU each.

A broker hands work to whoever has waited longest. Of many idle loops each then gets one request, in turn, with caches
that are cold by then, and no two requests travel together. So one of them waits there, and one more whenever work lies
there for too long, but never more than there are CPUs; the rest stand in a stack, and the one that ran last is the
first to sit again.

Owns who sits and who stands. Whether a loop needs a seat at all is its own affair: one whose work takes long, or waits
for something else than a CPU, asks the broker without.
"""

from typing import NamedTuple


class Sitter(NamedTuple):
    """One loop of one worker, for one `turn`: from its asking for a seat to its leaving it."""

    worker: str
    loop: int
    turn: int


class Seats:
    """One at first, and `most` in the end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 1
        self._sitting: dict[Sitter, None] = {}
        self._standing: list[Sitter] = []

    @property
    def sitting(self) -> tuple[Sitter, ...]:
        return tuple(self._sitting)

    def asks(self, who: Sitter) -> list[Sitter]:
        """It has nothing to do. Returns who is to sit down now."""
        self._standing.append(who)
        return self._fill()

    def leaves(self, who: Sitter) -> list[Sitter]:
        """It needs no seat any more. Returns who is to sit down now. Who is unknown is passed over."""
        self._sitting.pop(who, None)
        if who in self._standing:
            self._standing.remove(who)
        return self._fill()

    def gone(self, worker: str) -> list[Sitter]:
        """That worker is no more. Returns who is to sit down now."""
        self._sitting = {who: None for who in self._sitting if who.worker != worker}
        self._standing = [who for who in self._standing if who.worker != worker]
        return self._fill()

    def more(self) -> list[Sitter]:
        """One more is put up, if there may be more. Returns who is to sit down now."""
        self._count = min(self._most, self._count + 1)
        return self._fill()

    def fewer(self) -> Sitter | None:
        """One is taken away, but the last. Returns who has to stand up for it; it may ask again."""
        self._count = max(1, self._count - 1)
        return self._sitting.popitem()[0] if len(self._sitting) > self._count else None

    def _fill(self) -> list[Sitter]:
        called = []
        while self._standing and len(self._sitting) < self._count:
            who = self._standing.pop()
            self._sitting[who] = None
            called.append(who)
        return called
