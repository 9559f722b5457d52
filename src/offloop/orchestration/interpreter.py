"""Settings of the interpreter that a process with loops wants: the switch interval and the frozen heap.

Owns what is global to the process and must be put back: two Offloops in one process share it, the last to leave
restores what the first one found.
"""

import gc
import sys
import threading

_lock = threading.Lock()
_users = 0
_found = 0.0
_frozen = False


def tune(switch_interval: float | None) -> None:
    """Enter. `switch_interval` in seconds: how long a thread may keep the GIL from others; None leaves it."""
    global _users, _found
    with _lock:
        if _users == 0:
            _found = sys.getswitchinterval()
        _users += 1
        if switch_interval is not None:
            sys.setswitchinterval(switch_interval)


def freeze() -> None:
    """Take everything alive after the start out of the garbage collector's sight.

    A full collection walks all of it, stops the event loop for as long as that takes, and frees next to nothing.
    """
    gc.collect()
    gc.freeze()


def restore(*, frozen: bool) -> None:
    """Leave. The last one out puts back what the first one found. `frozen`: whether the one that leaves did `freeze`."""
    global _users, _frozen
    with _lock:
        _users -= 1
        _frozen = _frozen or frozen
        if _users == 0:
            sys.setswitchinterval(_found)
            if _frozen:
                gc.unfreeze()
            _frozen = False
