"""A reader that takes so many bytes a second and never pauses for longer than that asks for.

Owns the pace alone: it stands for a slow peer, as a node that blocks stands for work. Nothing waits for it to pass.
"""

import threading
from time import monotonic


class Pace:
    """Counted from the first byte on, so that a machine that was away is made up for."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._read = 0
        self._since: float | None = None
        self._never = threading.Event()

    def took(self, size: int) -> None:
        """So many more: wait until their time has come."""
        now = monotonic()
        if self._since is None:
            self._since = now
        self._read += size
        self._never.wait(max(0.0, self._since + self._read / self._rate - now))
