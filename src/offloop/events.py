"""The event kinds, and the observers that see them.

Owns the one stream of events from which metrics, logs, tests and the event log are made. Emitting an event must never
fail or delay a request, so nothing here does I/O; what an observer does with an event is its own affair.
"""

from collections.abc import Iterable
from typing import Any, Literal, Protocol, get_args

import msgspec

Kind = Literal[
    "open", "arrive", "admit", "reject", "waiter_add", "enqueue", "dequeue", "start", "finish", "terminal",
    "waiter_del", "late_drop", "disconnect", "overdue", "drain_begin", "drain_end", "worker_up", "worker_lost",
    "replace", "lag", "close",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

STOPPED = "stopped"
"""The cause of a `worker_lost` that was asked for: a stop, neither a death nor a restart."""
WEDGED = "wedged"
"""The outcome of a `replace`, and the cause of the `worker_lost` of a process that was killed for it: one restart."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened, at `t` (monotonic seconds).

    Attributes:
        outcome: `ok` or a reason (reject, finish, terminal, late_drop); a cause (worker_lost, replace, disconnect).
        started: as in the contract; on `terminal`.
        limit: on admit the endpoint's `max_in_flight`; on open the queue limit.
        idempotent, finishes: on admit, the endpoint's policy (`finishes`: a caller's leaving is no cancellation).
        admitted_at, begun_at, ended_at: on terminal, monotonic seconds; 0.0 where it never came so far.
        value: a number of the kind: lag in seconds; drain budget (drain_begin) or requests cut (drain_end);
            max deliveries (open).
        size: bytes of the reply (finish and terminal); what was sent must be what its own loop made.
        worker: which loop or process (start, finish, worker_up, worker_lost, overdue, replace).
        mode: on open: thread, process, cluster; worker for a process that has no waiters.
        namespace, queues: on open in a cluster: whose requests it has, and in how many queues, each with that limit.
    """

    t: float
    kind: Kind
    rid: str = ""
    endpoint: str = ""
    request_id: str = ""
    attempt: int = 1
    deadline: float = 0.0
    outcome: str = ""
    started: bool | None = None
    limit: int = 0
    idempotent: bool = False
    finishes: bool = False
    admitted_at: float = 0.0
    begun_at: float = 0.0
    ended_at: float = 0.0
    value: float = 0.0
    size: int = 0
    worker: str = ""
    mode: str = ""
    namespace: str = ""
    queues: int = 0


class Observer(Protocol):
    """Sees events. Called on the event loop and on loop threads: thread-safe, never blocks, never raises."""

    kinds: frozenset[Kind]
    """The kinds it wants; an event nobody wants is never built."""

    def __call__(self, event: Event, /) -> None: ...


class Events:
    """Fans events out. Emitters keep `events.of(kind)` and loop over it, so that an unwanted event costs nothing.

    Example:
        >>> seen = []
        >>> class Seen:
        ...     kinds = frozenset({"admit"})
        ...     def __call__(self, event): seen.append(event.rid)
        >>> for see in Events([Seen()]).of("admit"):
        ...     see(Event(t=0.0, kind="admit", rid="r1"))
        >>> seen
        ['r1']
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._by_kind: dict[Kind, tuple[Observer, ...]] = {}
        seen = tuple(observers)
        for kind in KINDS:
            self._by_kind[kind] = tuple(observer for observer in seen if kind in observer.kinds)

    def of(self, kind: Kind) -> tuple[Observer, ...]:
        """The observers of one kind; empty for most kinds in most processes."""
        return self._by_kind[kind]

    def emit(self, t: float, kind: Kind, **fields: Any) -> None:
        """Convenience for events that are rare."""
        for see in self._by_kind[kind]:
            see(Event(t=t, kind=kind, **fields))
