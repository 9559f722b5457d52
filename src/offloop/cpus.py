"""How many CPUs this process may really use: affinity and the quota of its control groups.

Owns the reading of /sys/fs/cgroup. Nothing here decides what the number is used for.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """At least 1. `root` is where `proc` and `sys` are found.

    A quota of 1.5 CPUs counts as 2: a second worker uses the half. Both versions of control groups are read (kernel
    documentation, admin-guide/cgroup-v2, "cpu.max", and scheduler/sched-bwc, "cpu.cfs_quota_us").
    """
    # A platform without affinity (macOS, Windows) has no control groups either.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def spare_cpus(root: Path = Path("/")) -> int:
    """Those besides one that may be kept busy for nothing: none where a quota counts what is used."""
    return 0 if any(True for _ in _quotas(root)) else usable_cpus(root) - 1


def _quotas(root: Path) -> Iterator[float]:
    """The quota of every control group above this process, in CPUs; a parent's limit holds for its children."""
    mounts = root / "sys/fs/cgroup"
    for line in _words(root / "proc/self/cgroup", separator="\n"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounts / "cpu" if controllers else mounts
        group = top / path.lstrip("/")
        # Inside a container the path may be the host's, and only the top is mounted.
        for folder in (group, *group.parents):
            if controllers:
                words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
            else:
                words = _words(folder / "cpu.max")
            if len(words) == 2 and words[0] not in ("max", "-1"):
                yield int(words[0]) / int(words[1])
            if folder == top:
                break


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text().strip().split(separator)
    except OSError:  # not on this kernel, or not mounted here
        return []
