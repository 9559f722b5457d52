"""A crew that is elsewhere: workers that take their work from a broker, on hosts that nobody here watches.

Owns whether they can be reached and who has announced themselves. It answers what `Crew` answers; who holds what, what
a death means and who is to be replaced is decided where the workers are.
"""

from collections.abc import Collection, Mapping

from offloop.core.crew import ANYONE, PATIENCE

ONE_PLACE = ""
"""The pool of all endpoints, where there are no others."""


class Distant:
    """The workers of a cluster, as one web process knows them.

    Args:
        now: workers that are not there by then and `PATIENCE` more are not coming.
        counted_there: what waits counts in a bound at the broker, which all web processes share, and not in this one's.
        pools: where requests of each endpoint go, by its name; None: all go to one place.

    Attributes:
        shared: work lies in one place that all of them take from.
        reads_ahead: nothing is handed to one of them here.
    """

    shared = True
    reads_ahead = False

    def __init__(self, now: float, *, counted_there: bool = True, pools: Mapping[str, str] | None = None) -> None:
        self.counted_there = counted_there
        self._linked = False
        self._staff: dict[str, tuple[int, int]] = {}
        self._pools = pools or {}
        self._vacant_since = dict.fromkeys(self._pools.values() or (ONE_PLACE,), now)
        self._every = tuple(self._vacant_since)

    # ---- what is reported

    def linked(self, up: bool) -> bool:
        """The broker can be reached, or cannot; says whether that is news."""
        changed, self._linked = up != self._linked, up
        return changed

    def staffed(
        self, staff: Mapping[str, tuple[int, int]], now: float, served: Collection[str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Who is there: (loops, of which busy) by name. Returns the names that have come, and those that have gone.

        `served`: the pools that they take from; None: all.
        """
        come = [name for name in staff if name not in self._staff]
        left = [name for name in self._staff if name not in staff]
        self._staff = dict(staff)
        for pool in self._every:
            if staff if served is None else pool in served:
                self._vacant_since.pop(pool, None)
            else:
                self._vacant_since.setdefault(pool, now)
        return come, left

    # ---- what is asked

    @property
    def usable(self) -> int:
        """Readiness means the broker, and not the workers: requests are accepted for those to come."""
        return int(self._linked)

    def available(self, now: float, endpoint: str) -> bool:
        """Whether its work may be queued: the broker is there, and somebody takes from its pool, or did lately."""
        since = self._vacant_since.get(self._pools.get(endpoint, ONE_PLACE))
        return self._linked and (since is None or now - since < PATIENCE)

    def states(self) -> dict[str, int]:
        """Loops, and not workers: idle and busy. What hangs is seen where it is."""
        loops = sum(loops for loops, _ in self._staff.values())
        busy = sum(busy for _, busy in self._staff.values())
        return {"idle": loops - busy, "busy": busy, "overdue": 0, "wedged": 0}

    def place(self, endpoint: str) -> str:
        return ANYONE

    def __contains__(self, name: str) -> bool:
        return name in self._staff

    # ---- what is decided where the workers are

    def up(self, name: str, loops: int, replaces: str = "", rank: int = 0) -> None:
        """Nobody comes up here."""

    def failed(self) -> None: ...

    def gone(self, name: str, now: float) -> tuple[list[str], list[str]]:
        return [], []

    def hand(self, rid: str, name: str, endpoint: str, now: float) -> None: ...

    def begun(self, rid: str, name: str) -> None: ...

    def asked(self, rid: str) -> None: ...

    def took(self, endpoint: str, seconds: float) -> None: ...

    def ran(self, endpoint: str, seconds: float) -> None: ...

    def freed(self, rid: str, by: str = "") -> None: ...

    def abandon(self, rid: str, deadline: float) -> None: ...

    def stranded(self, now: float) -> list[str]:
        return []

    def due(self, now: float) -> list[str]:
        return []

    def next_at(self) -> float | None:
        return None

    def replaceable(self) -> list[str]:
        return []
