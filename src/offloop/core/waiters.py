"""The waiter registry: who waits, since when, until when.

Owns the set of waiters, the count per endpoint and the order of deadlines. It never judges why a waiter ends, and
never touches a promise.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from offloop.core.policy import Policy
from offloop.messages import Envelope

SLACK = 64
"""Entries of ended waiters that the heap may hold beyond as many as there are live ones."""


class Phase(IntEnum):
    UPLOADING = 0  # admitted; its body is still arriving
    QUEUED = 1  # in the backlog, or in a transport's buffer
    BEGUN = 2  # a worker has claimed it
    RECALLED = 3  # taken back from a transport that has not answered yet
    ENDED = 4


def either(one: bool | None, other: bool | None) -> bool | None:
    """Whether one of the two is so; None where that cannot be known."""
    if one or other:
        return True
    return None if one is None or other is None else False


class Waiter(msgspec.Struct, eq=False):
    """The caller's side of one admitted request. `promise` belongs to the gateway; None once the caller has left.

    Attributes:
        size: bytes of its body that are reserved.
        tried: whether an earlier attempt had begun; None where that cannot be known.
        begun_at: of the attempt that runs; 0.0 before.
        envelope: what is sent to a worker, kept for as long as it may be sent again.
        hears: takes stream messages and progress, where the caller does.
        heard: a stream message has come: the work cannot begin again without the caller noticing.
        taken: bytes of stream messages that the caller has taken and its loop has not been told of.
        verdict: the reason to end with once a withdrawal is answered; "" where that depends on the answer.
        due_at: when it is to be looked at: its deadline, or when a withdrawal has to be answered.
        order: as the how manieth of all its body was complete.
        admitted: its admission is certain; where the bound is shared, that is once the broker has judged it.
        told: its promise has the outcome, and whoever holds it has not closed the waiter yet.
    """

    rid: str
    policy: Policy
    promise: Any
    admitted_at: float
    deadline: float
    request_id: str
    size: int
    phase: Phase = Phase.UPLOADING
    attempt: int = 1
    tried: bool | None = False
    begun_at: float = 0.0
    envelope: Envelope | None = None
    hears: Any = None
    heard: bool = False
    taken: int = 0
    verdict: str = ""
    admitted: bool = True
    told: bool = False
    order: int = 0
    due_at: float = 0.0

    @property
    def endpoint(self) -> str:
        return self.policy.name

    def started(self, begun: bool | None) -> bool | None:
        """Whether any attempt had begun, if this is so of the last; None where that cannot be known."""
        return either(self.tried, begun)


class Waiters:
    """All waiters of one web process. Not thread-safe: touched on its own event loop only.

    Attributes:
        get: the waiter of a rid; None where there is none.
    """

    def __init__(self) -> None:
        self._live: dict[str, Waiter] = {}
        self.get: Callable[[str], Waiter | None] = self._live.get
        self._counts: dict[str, int] = {}
        self._dues: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Waiter]:
        """In the order of admission; a copy, so that waiters may end meanwhile."""
        return iter(tuple(self._live.values()))

    def count(self, endpoint: str) -> int:
        """Waiters of one endpoint."""
        return self._counts.get(endpoint, 0)

    def add(self, waiter: Waiter) -> None:
        name = waiter.policy.name
        self._live[waiter.rid] = waiter
        self._counts[name] = self._counts.get(name, 0) + 1
        waiter.due_at = waiter.deadline
        heappush(self._dues, (waiter.deadline, waiter.rid))

    def remove(self, waiter: Waiter) -> bool:
        """Take it out; False if it had been taken out before."""
        if self._live.pop(waiter.rid, None) is None:
            return False
        self._counts[waiter.policy.name] -= 1
        # An ended waiter's entry stays in the heap until its time comes: removing it there would cost a search. Under a
        # long deadline and a high rate those would pile up, so the heap is rebuilt when they are the most of it.
        if len(self._dues) > 2 * len(self._live) + SLACK:
            self._dues = [(live.due_at, rid) for rid, live in self._live.items()]
            heapify(self._dues)
        return True

    def postpone(self, waiter: Waiter, until: float) -> None:
        """Name it again then: it is not to end before a withdrawal is answered. Its deadline stays what it is."""
        waiter.due_at = until
        heappush(self._dues, (until, waiter.rid))

    def due(self, now: float) -> Iterator[Waiter]:
        """Those whose time has come, earliest first.

        Each that is named is to end or to be postponed before the next; others may end with it.
        """
        while (when := self.next_at()) is not None and when <= now:
            yield self._live[heappop(self._dues)[1]]

    def next_at(self) -> float | None:
        """When the next live waiter is due."""
        while self._dues:
            when, rid = self._dues[0]
            waiter = self._live.get(rid)
            if waiter is not None and waiter.due_at == when:
                return when
            heappop(self._dues)
        return None
