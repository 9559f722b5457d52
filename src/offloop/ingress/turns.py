"""How much one task does on the event loop before the others have their turn.

A task that takes what is there already, and writes it to where there is room, never waits: without a bound it would
hold the event loop for as long as more has come than it has taken. Owns that bound. What is taken must never enter.
"""

import asyncio

AT_ONCE = 64
"""Things done in one turn of the event loop by all tasks together that have more to do; each does one at least."""


class Turns:
    """Those of one event loop.

    Attributes:
        waiting: tasks that have more to do and let others have their turn.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = 0


class Share:
    """One task's part of each turn.

    Use: `done()` for each thing that was done, and `await over()` before the next.
    """

    __slots__ = ("_done", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._done = 0

    def done(self) -> None:
        """One more."""
        self._done += 1

    async def over(self) -> None:
        """Wait for the next turn, if this one's share is used up."""
        turns = self._turns
        if self._done * (1 + turns.waiting) < AT_ONCE:
            return
        self._done = 0
        turns.waiting += 1
        try:
            await asyncio.sleep(0)
        finally:
            turns.waiting -= 1
