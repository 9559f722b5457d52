"""Credit: how much of a stream its loop may send before the caller has taken what was sent.

Owns one count for each streaming request, in the process of its loop. Bytes, and not messages, because it is memory
that a caller who does not read would fill. One message may go beyond what is left, so that a large one always can.
"""

import threading


class Credit:
    """Thread-safe: spent by a loop, granted and ended by whoever hears the web side.

    Args:
        room: bytes that may be sent at first.
    """

    __slots__ = ("_changed", "_left", "_over")

    def __init__(self, room: int) -> None:
        self._changed = threading.Condition()
        self._left = room
        self._over = False

    def spend(self, size: int, timeout: float) -> bool:
        """Wait until there is room, and take it. False: not within `timeout` seconds, or nobody will take any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._left > 0 or self._over, timeout)
            if self._left <= 0 or self._over:
                return False
            self._left -= size
            return True

    def grant(self, room: int) -> None:
        """So many bytes were taken."""
        with self._changed:
            self._left += room
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody will take any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
