"""A queue from one event loop to some loop threads that wakes as few of them as it can.

`queue.SimpleQueue` wakes a thread for every item, and each thread that takes one wakes the next, which mostly finds
nothing: under the GIL every such thread takes time from the event loop. Here idle threads are parked on a stack. An
item wakes the one that came last, whose stack and caches are warm; while it is on its way nobody else is woken; and a
thread that takes an item and leaves others behind wakes the next one before it begins. So nothing lies while a thread
is idle, and a burst of short items is done by one thread.

Owns the order of items and who is woken. Rests on `deque` and `list` operations that are atomic with and without a GIL.
"""

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Handoff(Generic[Item]):
    """First in, first out; any number of threads take, one thread puts.

    Args:
        soon: calls back in the putting thread, before it next waits for anything (`loop.call_soon`). A thread is woken
            then, and not while there is more to put: under the GIL the two would be in each other's way.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], object] = lambda call: call()) -> None:
        self._items: deque[Item] = deque()
        self._idle: list[threading.Lock] = []
        self._waking = False
        self._soon = soon
        self._announced = False

    def put(self, item: Item) -> None:
        """Never blocks."""
        self._items.append(item)
        if not self._announced:
            self._announced = True
            self._soon(self._put)

    def _put(self) -> None:
        self._announced = False
        if self._items and not self._waking:
            self._wake()

    def _wake(self) -> None:
        try:
            parked = self._idle.pop()
        except IndexError:
            return
        self._waking = True  # before the release: the thread that is woken takes it back
        parked.release()

    def get(self, timeout: float) -> Item | None:
        """The next one; None where there was none for `timeout` seconds."""
        items = self._items
        give_up = 0.0
        while True:
            try:
                item = items.popleft()
            except IndexError:
                now = monotonic()
                give_up = give_up or now + timeout
                if now >= give_up:
                    return None
                self._park(give_up - now)
            else:
                if items and self._idle and not self._waking:
                    self._wake()
                return item

    def _park(self, timeout: float) -> None:
        """Until woken, or for so long."""
        mine = threading.Lock()
        mine.acquire()
        self._idle.append(mine)
        # An item may have come since this thread looked, when nobody was parked yet to be woken for it.
        if self._items or not mine.acquire(timeout=timeout):
            try:
                self._idle.remove(mine)
            except ValueError:
                # Woken all the same. Wait for it: the flag below must be taken back after the waker has set it.
                mine.acquire()
            else:
                return
        self._waking = False
