"""The table of what has begun: one number for each place in a worker's buffer, in memory that two processes share.

A worker writes the time at which it begins a request before it calls the first node. What it has written outlives it,
however it ends, and costs neither side a system call. A number is eight bytes on an eight-byte boundary and is stored
at once, so that it is never read by half.

Owns the memory. Which request has which place is the web side's affair; it clears a place before it gives it away.
"""

import mmap
import os
import tempfile

WIDTH = 8


def shared_memory(places: int) -> int:
    """The descriptor of fresh, zeroed shared memory that no name leads to, with room for so many places."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("offloop")
    else:
        memory, path = tempfile.mkstemp(prefix="offloop-")
        os.unlink(path)  # noqa: PTH108  (a descriptor's own file, gone at once)
    os.ftruncate(memory, places * WIDTH)
    return memory


class Table:
    """One side's view of it. The descriptor may be closed afterwards."""

    def __init__(self, memory: int) -> None:
        self._map = mmap.mmap(memory, 0)
        self._times = memoryview(self._map).cast("d")

    def __getitem__(self, place: int) -> float:
        """When what has that place began, in monotonic seconds; 0.0: it has not."""
        return self._times[place]

    def __setitem__(self, place: int, at: float) -> None:
        self._times[place] = at

    def __len__(self) -> int:
        return len(self._times)

    def close(self) -> None:
        self._times.release()
        self._map.close()
