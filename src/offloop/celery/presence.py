"""That a worker is there: said again and again by its parent process, for as long as it takes requests.

Owns the thread that says so. What is not said any more is not believed for long; what it is good for is that requests
are refused at once where nobody would take them.
"""

import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

from celery.worker import state

from offloop.transports.celery.ends import WorkerEnd

log = logging.getLogger("offloop")

EVERY = 1.0
"""Seconds between two announcements; each counts for three."""


class Presence:
    """From now on until `end`.

    Args:
        end: makes the way to the broker, which is not asked for before there is something to say.
        queues: what of ours this worker takes from now: `celery control` may change that.
        task: the name of ours among the tasks that it runs.
        pool: Celery's.
    """

    def __init__(
        self, end: Callable[[], WorkerEnd], queues: Callable[[], Collection[str]], task: str, pool: Any
    ) -> None:
        self._end = end
        self._queues = queues
        self._task = task
        self._pool = pool
        self._said: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._say, name="offloop-presence", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """It takes nothing more. Without waiting for the broker to hear of it."""
        self._over.set()

    def _say(self) -> None:
        heard = True
        while not self._over.is_set():
            try:
                self._announce(set(self._queues()))
                heard = True
            except OSError as fault:
                if heard:
                    log.warning("this worker cannot be announced: %s", fault)
                heard = False
            self._over.wait(EVERY)
        try:
            self._announce(set())
        except OSError:
            log.debug("nobody could be told that this worker leaves")

    def _announce(self, queues: set[str]) -> None:
        if left := self._said - queues:
            self._end().depart(sorted(left))
        self._said = queues  # also where it is not heard: it may have been
        if queues:
            busy = sum(request.name == self._task for request in list(state.active_requests))
            loops = int(getattr(self._pool, "limit", None) or 1)
            self._end().announce(sorted(queues), loops, min(busy, loops))
