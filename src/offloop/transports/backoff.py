"""How long to wait before a broker is tried again.

Owns the delays between two tries. Waits for nothing itself, and knows no connection: when a try was good is for whoever
made it to say.
"""

from random import Random

FIRST, LONGEST = 0.05, 1.0
"""Seconds between two tries; doubled, with jitter."""


class Backoff:
    """Of one connection; for one thread."""

    def __init__(self) -> None:
        self._random = Random()
        self._delay = FIRST

    def delay(self) -> float:
        """Seconds to wait now: half of what is due, or more, so that many do not try together."""
        delay, self._delay = self._delay, min(LONGEST, 2 * self._delay)
        return delay * (0.5 + self._random.random() / 2)

    def reset(self) -> None:
        """The last try was good: the next delay is the first again."""
        self._delay = FIRST
