"""A gateway whose time, timers, transport and workforce are turned by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

from offloop.core.crew import Crew
from offloop.core.distant import Distant
from offloop.core.drain import Drain
from offloop.core.policy import Policy
from offloop.core.waiters import Waiter
from offloop.events import KINDS, Event, Events
from offloop.ingress.gateway import Gateway
from offloop.messages import Begun, Envelope, Linked, Outcome, Report, Staffed, WorkerGone, WorkerUp

POLICIES = {
    policy.name: policy
    for policy in (
        Policy(name="plain", timeout=10.0, max_in_flight=2, max_body=100),
        Policy(name="again", timeout=10.0, max_in_flight=9, max_body=100, idempotent=True),
        Policy(name="keeps", timeout=10.0, max_in_flight=9, max_body=100, finishes=True),
    )
}


class Promise:
    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.cancelled = False

    def done(self) -> bool:
        return self.cancelled or self.outcome is not None

    def set_result(self, outcome: Outcome) -> None:
        assert not self.done()
        self.outcome = outcome


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Sink:
    """Notes what it is told; `answers` says how the next withdrawals are answered, `unread` what `settle` finds.

    `cut_after` is of each `cut`: how many withdrawals came before.
    """

    def __init__(self) -> None:
        self.put_to: list[tuple[Envelope, str | None]] = []
        self.cancelled: list[str] = []
        self.withdrawn: list[str] = []
        self.granted: list[tuple[str, int]] = []
        self.answers: list[bool | None] = []
        self.unread: list[Report] = []
        self.cut_after: list[int] = []
        self.receive: Callable[[list[Report]], None] = lambda reports: None

    def put(self, envelope: Envelope, worker: str | None) -> None:
        self.put_to.append((envelope, worker))

    def withdraw(self, rid: str) -> bool | None:
        self.withdrawn.append(rid)
        return self.answers.pop(0) if self.answers else True

    def cancel(self, rid: str) -> None:
        self.cancelled.append(rid)

    def grant(self, rid: str, room: int) -> None:
        self.granted.append((rid, room))

    def cut(self) -> None:
        self.cut_after.append(len(self.withdrawn))

    def settle(self) -> None:
        unread, self.unread = self.unread, []
        if unread:
            self.receive(unread)

    @property
    def rids(self) -> list[str]:
        return [envelope.rid for envelope, _ in self.put_to]


class Workforce:
    def __init__(self) -> None:
        self.replaced: list[str] = []

    def replace(self, worker: str) -> None:
        self.replaced.append(worker)


class Rig:
    """A started gateway with so many workers; times are seconds from 100."""

    kinds = frozenset(KINDS)

    def __init__(
        self, workers: int = 1, *, shared: bool = True, limit: int = 3, size: int = 1000, drain: Drain | None = None,
        grace: float = 5.0, read_ahead: int = 0, distant: bool = False, counted_there: bool = True,
        pools: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.now = 100.0
        self.timers: list[Timer] = []
        self.sink = Sink()
        self.workforce = Workforce()
        self.events: list[Event] = []
        self.drained = 0
        self.answered = 0
        self._made = 0
        self.crew: Crew | Distant = Crew(shared=shared, kill_grace=grace, read_ahead=read_ahead)
        if distant:
            self.crew = Distant(self.now, counted_there=counted_there, pools=pools)
        self.gateway = Gateway(
            POLICIES, clock=lambda: self.now, timers=self, rid=self._rid, sink=self.sink, crew=self.crew,
            workforce=self.workforce, drain=drain or Drain(20.0), events=Events([self]), queue_limit=limit,
            queue_bytes=size, max_deliveries=3, drained=self._on_drained, answered=self._on_answered,
            promise=lambda: asyncio.get_running_loop().create_future(),
        )  # fmt: skip
        self.sink.receive = self.gateway.receive
        if distant:
            self.reports(Linked(True), Staffed({f"w{number}": (1, 0) for number in range(1, workers + 1)}))
        else:
            self.reports(*(WorkerUp(f"w{number}") for number in range(1, workers + 1)))
        self.gateway.start()

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def _rid(self) -> str:
        self._made += 1
        return f"r{self._made}"

    def _on_drained(self) -> None:
        self.drained += 1

    def _on_answered(self) -> None:
        self.answered += 1

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def until(self, now: float) -> None:
        """Let time pass, timers at their instants."""
        while due := [timer for timer in self.pending if timer.when <= now]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.callback()
        self.now = now

    def reports(self, *reports: Report) -> None:
        self.gateway.receive(reports)

    def opened(self, endpoint: str = "plain", **how: Any) -> Waiter:
        return self.gateway.open(endpoint, Promise(), **how)

    def sent(
        self, endpoint: str = "plain", payload: bytes = b"body", *, stream: bool = False, **how: Any
    ) -> tuple[Waiter, Promise]:
        promise = Promise()
        waiter = self.gateway.open(endpoint, promise, declared=len(payload), **how)
        self.gateway.send(waiter, payload, stream=stream)
        return waiter, promise

    def begun(self, waiter: Waiter, worker: str = "w1", attempt: int = 1) -> None:
        self.reports(Begun(waiter.rid, attempt, worker, self.now))

    def gone(self, worker: str) -> None:
        self.reports(WorkerGone(worker, "killed"))

    def ends(self) -> list[tuple[str, str, bool | None]]:
        return [(event.rid, event.outcome, event.started) for event in self.events if event.kind == "terminal"]

    def seen(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]
