"""When a worker that has ended is started again: at once, unless starting is what fails.

Owns the back-off between failed starts of one place in the crew. Starts nothing, and draws no random number of its own.
"""

FIRST = 0.25
"""Seconds before the second try."""
LONGEST = 30.0
BRIEF = 1.0
"""Seconds. A worker that ends sooner without having been handed anything has failed to start."""


class Respawn:
    """Of one place. Every failure doubles the wait (AWS Architecture Blog, "Exponential Backoff And Jitter")."""

    def __init__(self) -> None:
        self._failures = 0

    def delay(self, *, lived: float | None, handed: int, random: float) -> float:
        """Seconds to wait now that its worker has ended.

        Args:
            lived: seconds for which it was ready; None: it never was.
            handed: how many requests it was handed.
            random: from 0 to 1; many hosts that fail together are not to try together.
        """
        if lived is not None and (handed or lived >= BRIEF):
            self._failures = 0
            return 0.0
        self._failures += 1
        # The exponent is bounded, so that a place that fails for days does not overflow.
        return float(min(LONGEST, FIRST * 2 ** min(self._failures - 1, 16))) * (0.5 + random / 2)
