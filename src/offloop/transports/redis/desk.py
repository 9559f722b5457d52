"""What the loops of one worker process share, and what each of them is given.

Owns no state but a request's own; who is connected and what is told is in `worker`.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from offloop.clock import Clock
from offloop.messages import Envelope
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.redis.names import Names
from offloop.transports.redis.seat import Seat
from offloop.transports.redis.wire import Address, Reply

READ_AHEAD = 5
"""Requests more than one that a loop asks for at most. With more, the web process waits while the loop works, and the
loop while the web process does; with fewer, each of them waits for the Redis more often."""


class Desk(NamedTuple):
    """What all loops of one worker process share.

    Attributes:
        name: the worker's, as `host/worker`; each loop is a consumer of its own.
        fingerprints: of the endpoints that it has.
        opened, closed: called with what a loop begins to have and has no more, by rid, for cancels and credits.
        holds: called with the loop's number and the deadline of what it runs; 0.0: nothing.
        begins: called with the loop's number and the id of what it is about to begin, each greater than the last.
        counted: called after each request.
        idle: called when no work has come for a while.
        busy: set by a loop that runs something while others wait for it: see `relieve`.
        seat: a loop's own, by its number.
        read_ahead: how many requests more than one a loop may ask for.
        disbelieved: called for each entry that is refused.
    """

    address: Address
    names: Names
    pool: str
    name: str
    keys: Sequence[str]
    fingerprints: dict[str, str]
    max_body: int
    max_reply: int
    clock: Clock
    opened: Callable[[str, ClaimedDelivery], None]
    closed: Callable[[str, ClaimedDelivery], None]
    holds: Callable[[int, float], None]
    begins: Callable[[int, bytes], None]
    counted: Callable[[], None]
    idle: Callable[[], None]
    busy: threading.Event
    seat: Callable[[int], Seat]
    read_ahead: int = READ_AHEAD
    disbelieved: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"Desk({self.name!r})"  # keys are shown nowhere


class RedisDelivery(ClaimedDelivery):
    """One entry, as it was given to a loop.

    Attributes:
        id: the broker's.
        inbox: of whoever asked.
        fields: as they came, in which it can be given back.
        expires: its deadline in the broker's time.
        asked: when the question went out that it came in answer to: its lease began after that.
        began_at: as the loop has said; 0.0: it has not.
    """

    __slots__ = ("_begins", "asked", "began_at", "expires", "fields", "id", "inbox")

    def __init__(
        self, envelope: Envelope, id: bytes, inbox: str, fields: Sequence[Reply], *,  # noqa: A002
        expires: float, asked: float, begins: "Callable[[RedisDelivery], bool]",
    ) -> None:  # fmt: skip
        super().__init__(envelope)
        self.id = id
        self.inbox = inbox
        self.fields = fields
        self.expires = expires
        self.asked = asked
        self.began_at = 0.0
        self._begins = begins

    def begin(self) -> bool:
        return self._begins(self) and super().begin()
