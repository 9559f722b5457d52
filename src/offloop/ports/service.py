"""Port for whatever has a life: started once, watched, stopped once. No implementation, no policy."""

from collections.abc import Callable
from typing import Protocol


class Workforce(Protocol):
    """Runs the loops of one mode. Called on the event loop only. `stop` without a start is without effect."""

    async def start(self) -> None:
        """Bring the loops up; returns when they can take work. Raises `StartError`, leaving nothing running."""

    def replace(self, worker: str) -> None:
        """That worker is wedged or gone: bring up a fresh one in its place, if one may be; it reports `WorkerUp`."""

    async def stop(self, timeout: float) -> int:
        """Let every loop end and say how many had not within `timeout` seconds. Never raises, never blocks the loop."""


class Timers(Protocol):
    """Calls back at an instant; the gateway's only way to wait. `asyncio` outside of tests."""

    def call_at(self, when: float, callback: Callable[[], None]) -> "Timer":
        """`when` is monotonic seconds as `clock` tells them."""


class Timer(Protocol):
    def cancel(self) -> None: ...
