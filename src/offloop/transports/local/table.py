"""The table of what has begun: some numbers for each place in a worker's buffer, in memory that two processes share.

A worker writes the time at which it begins a request before it calls the first node. What it has written outlives it,
however it ends, and costs neither side a system call. A number is eight bytes on an eight-byte boundary and is stored
at once, so that it is never read by half.

A loop that takes its work elsewhere has marks besides: how far it has come in what it was given, in order.

Owns the memory. Which request has which place is the web side's affair; it clears a place before it gives it away.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator

WIDTH = 8
WORDS = 3
"""For each place: a time, and the two halves of a mark."""

Mark = tuple[int, int]
"""Of what comes in order, the last that has begun."""


def shared_memory(places: int) -> int:
    """The descriptor of fresh, zeroed shared memory that no name leads to, with room for so many places."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("offloop")
    else:
        memory, path = tempfile.mkstemp(prefix="offloop-")
        os.unlink(path)  # noqa: PTH108  (a descriptor's own file, gone at once)
    os.ftruncate(memory, places * WORDS * WIDTH)
    return memory


class Table:
    """One side's view of it. The descriptor may be closed afterwards."""

    def __init__(self, memory: int) -> None:
        self._map = mmap.mmap(memory, 0)
        self._words = memoryview(self._map).cast("d")
        self._places = len(self._words) // WORDS
        self._times = self._words[: self._places]

    def __getitem__(self, place: int) -> float:
        """When what has that place began, in monotonic seconds; 0.0: it has not."""
        return self._times[place]

    def __setitem__(self, place: int, at: float) -> None:
        self._times[place] = at

    def __len__(self) -> int:
        return len(self._times)

    def __iter__(self) -> Iterator[float]:
        return iter(self._times)

    def mark(self, place: int, upper: int, lower: int) -> None:
        """It begins what comes as (upper, lower); all that it was given before counts as begun, too.

        Whoever reads between the two stores sees a mark that is too high, and never one that is too low.
        """
        at = self._places + 2 * place
        if upper != self._words[at]:
            self._words[at] = upper
        self._words[at + 1] = lower

    def marks(self) -> dict[int, Mark]:
        """By place, where there is one."""
        found = {}
        for place in range(self._places):
            at = self._places + 2 * place
            if self._words[at]:
                found[place] = int(self._words[at]), int(self._words[at + 1])
        return found

    def close(self) -> None:
        self._times.release()
        self._words.release()
        self._map.close()
