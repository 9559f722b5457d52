"""How long the machine ran nobody, so that a bound on time need not have room for it.

Owns the measure alone. A virtual machine is taken off its CPUs at times, now and then for longer than what a bound
is about. Room for that in the bound would let defects by as well; what was seen to be missing is added instead, and
on a machine that was never away nothing is.
"""

import os
import threading
import time
from types import TracebackType
from typing import Self

TICK = 0.01
"""Seconds between two looks; a look that comes later than that by less than this is nobody's absence."""


class Stalls:
    """While it is entered, a thread on each CPU looks at the clock every `TICK`."""

    def __init__(self) -> None:
        self._over = threading.Event()
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
        self._away = dict.fromkeys(cpus, 0.0)
        self._threads = [threading.Thread(target=self._look, args=(cpu,), daemon=True) for cpu in cpus]

    @property
    def seconds(self) -> float:
        """What is missing up to now, on the CPU that missed most."""
        return max(self._away.values())

    def _look(self, cpu: int | None) -> None:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # of this thread
        before = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            late = now - before - TICK
            if late > TICK:
                self._away[cpu] += late
            before = now

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
