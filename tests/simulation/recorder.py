"""What a history's event log would hold, and what is looked up in it while the history goes on."""

from offloop.events import KINDS, Event
from tests.simulation.account import Account


class Recorder:
    """Every event up to `close`, as an event log has them."""

    kinds = frozenset(KINDS)

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.enqueued: dict[str, int] = {}
        """By rid: the how manieth it was to be enqueued."""
        self.deadlines: dict[str, float] = {}
        self.started: dict[str, list[str]] = {}
        """By worker: the rids that it began."""
        self.begun: set[str] = set()
        self.draining: Event | None = None
        self.account: Account | None = None

    def __call__(self, event: Event) -> None:
        if self.account is not None:
            self.account.event(event)
        if event.kind == "enqueue":
            self.enqueued[event.rid] = len(self.enqueued)
        elif event.kind == "admit":
            if self.account is not None:
                self.account.admitted(event.t)
            self.deadlines[event.rid] = event.deadline
        elif event.kind == "start":
            self.started.setdefault(event.worker, []).append(event.rid)
            self.begun.add(event.rid)
        elif event.kind == "drain_begin":
            self.draining = event
        if not self.events or self.events[-1].kind != "close":
            self.events.append(event)
