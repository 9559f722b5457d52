"""Time, as everything in offloop reads it: seconds on the system-wide monotonic clock.

Owns the `Clock` port and its one real implementation. No module but this one reads the time for a decision; it is
injected everywhere, so that tests and the simulation own it. Wall-clock time must never enter.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds. On one host the same instant has the same value in every process (CLOCK_MONOTONIC)."""

monotonic: Clock = time.monotonic
