"""What must be true of a history's events when it is over.

Owns the checks that need the whole of it: those of the event log's own checker, and the same in other words.
"""

from offloop.events import Event
from offloop.telemetry.verify import check
from tests.simulation.recorder import Recorder
from tests.simulation.streams import Streams
from tests.simulation.world import World

MAX_DELIVERIES = 3


class Afterwards:
    """Of one history.

    Args:
        grace: seconds past its deadline that a node might hold its loop.
    """

    def __init__(self, recorder: Recorder, world: World, streams: Streams, *, grace: float) -> None:
        self._recorder = recorder
        self._world = world
        self._streams = streams
        self._grace = grace

    def judge(self) -> None:
        self._one_end()
        for event in self._recorder.events:
            if event.kind == "overdue":
                held = [self._recorder.deadlines[rid] for rid in self._recorder.started[event.worker]]
                assert min(held) + self._grace <= event.t, f"{event.worker} was replaced without its grace"
            elif event.kind == "lag":
                late = any(began <= event.t and event.t - event.value <= ended for began, ended in self._world.blocks)
                assert late, "lag was told, and the event loop was not blocked"
        report = check(self._recorder.events)
        assert not report.error, report.error
        assert not any(verdict.violations for verdict in report.verdicts), "\n".join(report.lines())

    def _one_end(self) -> None:
        """What the checker of event logs also sees, told in another way."""
        said: dict[str, list[Event]] = {}
        for event in self._recorder.events:
            if event.rid:
                said.setdefault(event.rid, []).append(event)
        for rid, events in said.items():
            kinds = [event.kind for event in events]
            assert kinds.count("arrive") == 1, rid
            assert kinds.count("admit") + kinds.count("reject") == 1, rid
            admitted = kinds.count("admit")
            for kind in ("waiter_add", "terminal", "waiter_del"):
                assert kinds.count(kind) == admitted, (rid, kind)
            if admitted:
                _truthful(rid, events, kinds, heard=self._streams.was_heard(rid))


def _truthful(rid: str, events: list[Event], kinds: list[str], *, heard: bool) -> None:
    admit, end = events[kinds.index("admit")], events[kinds.index("terminal")]
    starts = [event for event in events if event.kind == "start"]
    assert len(starts) <= (MAX_DELIVERIES if admit.idempotent else 1), f"{rid} began too often"
    if end.started is False and end.outcome != "invalid-payload":
        assert not starts, f"{rid} is said not to have begun"
    if end.started is True:
        assert starts, f"{rid} is said to have begun"
    if end.outcome == "worker-lost" and admit.idempotent and not heard:
        assert len(starts) == MAX_DELIVERIES, f"{rid} was given up too early"
    if end.outcome in ("expired-in-queue", "upload-timeout"):
        assert end.started is False
    assert all(start.t < admit.deadline for start in starts)
    assert end.deadline == admit.deadline
