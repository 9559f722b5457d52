"""The waiter registry: who waits, since when, until when.

Owns the set of waiters, the count per endpoint and the order of deadlines. It never judges why a waiter ends, and
never touches a promise.
"""

from collections.abc import Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Any

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


class Waiter:
    """The caller's side of one admitted request. `promise` belongs to the gateway; None once the caller has left."""

    __slots__ = (
        "admitted_at", "attempt", "begun_at", "chunks", "deadline", "envelope", "phase", "policy", "promise",
        "request_id", "rid", "size", "told", "verdict", "worker",
    )  # fmt: skip

    def __init__(
        self, rid: str, policy: Policy, promise: Any, now: float, deadline: float, request_id: str, size: int
    ) -> None:
        self.rid = rid
        self.policy = policy
        self.promise = promise
        self.admitted_at = now
        self.deadline = deadline
        self.request_id = request_id
        self.size = size
        self.phase = Phase.UPLOADING
        self.attempt = 1
        self.begun_at = 0.0
        self.worker = ""
        self.envelope: Envelope | None = None
        self.chunks: Any = None
        self.verdict = ""
        self.told = False

    @property
    def endpoint(self) -> str:
        return self.policy.name


class Waiters:
    """All waiters of one web process. Not thread-safe: touched on its own event loop only."""

    def __init__(self) -> None:
        self._live: dict[str, Waiter] = {}
        self._counts: dict[str, int] = {}
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Waiter]:
        """In the order of admission; a copy, so that waiters may end meanwhile."""
        return iter(tuple(self._live.values()))

    def get(self, rid: str) -> Waiter | None:
        return self._live.get(rid)

    def count(self, endpoint: str) -> int:
        """Waiters of one endpoint."""
        return self._counts.get(endpoint, 0)

    def add(self, waiter: Waiter) -> None:
        name = waiter.policy.name
        self._live[waiter.rid] = waiter
        self._counts[name] = self._counts.get(name, 0) + 1
        heappush(self._deadlines, (waiter.deadline, waiter.rid))

    def remove(self, waiter: Waiter) -> bool:
        """Take it out; False if it had been taken out before."""
        if self._live.pop(waiter.rid, None) is None:
            return False
        self._counts[waiter.policy.name] -= 1
        # A deadline of an ended waiter stays in the heap until its time comes: removing it there would cost a search.
        # Under a long deadline and a high rate those would pile up, so the heap is rebuilt when they are the most of it.
        if len(self._deadlines) > 2 * len(self._live) + SLACK:
            self._deadlines = [(live.deadline, rid) for rid, live in self._live.items()]
            heapify(self._deadlines)
        return True

    def postpone(self, waiter: Waiter, deadline: float) -> None:
        """Give it another deadline; only ever for the moment in which a withdrawal is answered."""
        waiter.deadline = deadline
        heappush(self._deadlines, (deadline, waiter.rid))

    def due(self, now: float) -> list[Waiter]:
        """Those whose deadline has come, earliest first; each is returned once a deadline."""
        found: list[Waiter] = []
        heap = self._deadlines
        while heap and heap[0][0] <= now:
            deadline, rid = heappop(heap)
            waiter = self._live.get(rid)
            if waiter is not None and waiter.deadline == deadline:
                found.append(waiter)
        return found

    def next_at(self) -> float | None:
        """The earliest deadline of a live waiter."""
        heap = self._deadlines
        while heap:
            deadline, rid = heap[0]
            waiter = self._live.get(rid)
            if waiter is not None and waiter.deadline == deadline:
                return deadline
            heappop(heap)
        return None
