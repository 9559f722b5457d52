"""A thread for calls that may take any time, as log handlers do: whoever has something to be called never waits for it.

Owns the thread and what waits for it, which is bounded. What is called, and for whom, never enters here.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable

Call = Callable[[], object]


class Aside:
    """Makes calls in the order in which they were asked for. Thread-safe; one life: start, end, join.

    Args:
        name: of the thread.
        room: how much may wait for each of those who ask, in the unit of `size`; what comes on top is dropped.
        run: makes a call, and lets nothing that it raises through.
        dropped: for whom, and how many calls were dropped; called in their place.
    """

    def __init__(
        self, name: str, room: int, run: Callable[[Call], object], dropped: Callable[[str, int], object]
    ) -> None:
        self._room = room
        self._run = run
        self._tell = dropped
        self._changed = threading.Condition()
        self._calls: deque[tuple[str, int, Call]] = deque()
        self._waiting: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._over = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, by: str, size: int, call: Call) -> None:
        """Never waits. Whoever has nothing waiting may ask for something of any size."""
        with self._changed:
            waiting = self._waiting[by]
            if not waiting or waiting + size <= self._room:
                self._waiting[by] += size
                self._calls.append((by, size, call))
            else:
                if not self._dropped[by]:  # counted on until the place is reached where the first of them is missing
                    self._calls.append((by, 0, lambda: self._count(by)))
                self._dropped[by] += 1
            self._changed.notify()

    def end(self) -> None:
        """What was asked for is still called; nothing is to be asked any more."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Wait for the last call, after `end`, but no longer than that. If never started, make them all here."""
        if self._thread.ident is None:
            self._work()
        else:
            self._thread.join(timeout)

    def _work(self) -> None:
        while (call := self._next()) is not None:
            self._run(call)

    def _next(self) -> Call | None:
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._over)
            if not self._calls:
                return None
            by, size, call = self._calls.popleft()
            self._waiting[by] -= size
            return call

    def _count(self, by: str) -> None:
        with self._changed:
            dropped = self._dropped.pop(by)
        self._tell(by, dropped)
