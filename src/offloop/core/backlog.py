"""The backlog: what is admitted and has not begun.

Owns two things: the places (how many, how many bytes) from admission to the beginning, and the line of those that no
transport has been given yet. A place outlives the line: what lies in a worker's buffer is still queued.
"""

from collections import OrderedDict
from itertools import takewhile

from offloop.messages import Envelope


class Backlog:
    """Counts and order; first in, first out.

    Attributes:
        places: bytes by rid; as many are admitted and not begun.
        line: those given to no transport yet.
        counted: those of them that a broker counts, in a bound that is shared with others.
        bytes: of all places together.
    """

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.line: OrderedDict[str, Envelope] = OrderedDict()
        self.counted: set[str] = set()
        self.bytes = 0
        self._given_back: dict[str, int] = {}

    @property
    def depth(self) -> int:
        """Admitted and not begun."""
        return len(self.places)

    def __contains__(self, rid: str) -> bool:
        return rid in self.places

    def reserve(self, rid: str, size: int) -> None:
        """Take a place, with `size` bytes of it, before the body arrives."""
        self.places[rid] = size
        self.bytes += size

    def resize(self, rid: str, size: int) -> None:
        """The body turned out to be, or to have become, `size` bytes."""
        self.bytes += size - self.places[rid]
        self.places[rid] = size

    def elsewhere(self, rid: str) -> None:
        """A broker has it, and counts it: its bytes are not here any more."""
        if rid in self.places:
            self.resize(rid, 0)
            self.counted.add(rid)

    def enqueue(self, envelope: Envelope) -> None:
        """The body is complete: into the line, at its end."""
        self.line[envelope.rid] = envelope

    def give_back(self, envelope: Envelope, order: int) -> None:
        """Back into the line, before all that no transport was given: a worker has not begun it, or it may begin again.

        Args:
            envelope: it.
            order: as the how manieth it came into the line first; what is given back stands in this order.
        """
        before = list(takewhile(lambda rid: self._given_back.get(rid, order) < order, self.line))
        self.line[envelope.rid] = envelope
        self._given_back[envelope.rid] = order
        for rid in (envelope.rid, *reversed(before)):
            self.line.move_to_end(rid, last=False)

    def first(self) -> Envelope | None:
        """Who is next."""
        return next(iter(self.line.values()), None)

    def take(self) -> Envelope:
        """The first in line, for a transport; its place stays taken. Raises KeyError where there is no line."""
        rid, envelope = self.line.popitem(last=False)
        self._given_back.pop(rid, None)
        return envelope

    def in_line(self, rid: str) -> bool:
        return rid in self.line

    def leave(self, rid: str) -> None:
        """It has begun, or never will: the place is free. Unknown ids are passed over."""
        size = self.places.pop(rid, None)
        if size is not None:
            self.bytes -= size
            self.counted.discard(rid)
        if self.line:
            self.line.pop(rid, None)
            self._given_back.pop(rid, None)
