"""Which threads of this process are the library's."""

import threading

LASTING = {"offloop-spawner"}
"""It lives as long as the process: on Linux a child is killed when the thread that spawned it ends."""


def threads_of_ours() -> set[str]:
    """Names of all but the one that may stay."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("offloop")} - LASTING
