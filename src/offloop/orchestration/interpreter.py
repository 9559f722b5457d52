"""Settings of the interpreter that a process with loops wants: the switch interval and the frozen heap.

Owns what is global to the process and must be put back: two Offloops in one process share it, the last to leave
restores what the first one found.
"""

import gc
import sys
import threading
from dataclasses import dataclass


@dataclass(slots=True)
class _Shared:
    """What all Offloops of this process have found and done together."""

    users: int = 0
    found: float = 0.0
    frozen: bool = False


_lock = threading.Lock()
_shared = _Shared()


def tune(switch_interval: float | None) -> None:
    """Enter. `switch_interval` in seconds: how long a thread may keep the GIL from others; None leaves it."""
    with _lock:
        if _shared.users == 0:
            _shared.found = sys.getswitchinterval()
        _shared.users += 1
        if switch_interval is not None:
            sys.setswitchinterval(switch_interval)


def freeze() -> None:
    """Take everything alive after the start out of the garbage collector's sight.

    A full collection walks all of it, stops the event loop for as long as that takes, and frees next to nothing.
    """
    gc.collect()
    gc.freeze()


def restore(*, frozen: bool) -> None:
    """Leave; `frozen`: whether the one that leaves did `freeze`. The last one out puts back what the first found."""
    with _lock:
        _shared.users -= 1
        _shared.frozen = _shared.frozen or frozen
        if _shared.users == 0:
            sys.setswitchinterval(_shared.found)
            if _shared.frozen:
                gc.unfreeze()
            _shared.frozen = False
