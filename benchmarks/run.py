"""`make bench`: offloop's modes beside what else one may put behind FastAPI, or in its place.

    python benchmarks/run.py --only echo,ping --systems async-def,process --rounds 3 --seconds 2

Workloads (benchmarks/workloads): `echo`, `big`, `ping`, `stream`, `cluster`, `celery`, `flat`, `overload`, `kill`. The
systems take turns in every round, so that what the machine does meanwhile meets all of them; a ratio is taken within a
round, and the median and the range over the rounds are reported. The load shares the machine's CPUs with what it
measures, so that only ratios count.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from report import Part, show, show_goals
from systems import ENVIRONMENTS, SYSTEMS
from workloads import Plan, big, celery, cluster, echo, flat, kill, overload, ping, stream

WORKLOADS: dict[str, tuple[Callable[[Plan], Part], int]] = {
    "echo": (echo.run, 5),
    "big": (big.run, 5),
    "ping": (ping.run, 5),
    "stream": (stream.run, 5),
    "cluster": (cluster.run, 5),
    "celery": (celery.run, 5),
    "flat": (flat.run, 3),
    "overload": (overload.run, 3),
    "kill": (kill.run, 3),
}
"""What runs it, and in how many rounds."""
PACKAGES = (
    *("offloop", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "websockets", "pydantic", "msgspec"),
    *("celery", "kombu", "redis"),
)


def main() -> int:
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: `make bench` installs it, or apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended then, too
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"this machine is busy (load {load:.1f}): the figures will say so", file=sys.stderr)
    turns = _turns_in(0.010)
    parts: dict[str, Part] = {}
    for name in options.only:
        workload, rounds = WORKLOADS[name]
        parts[name] = workload(
            Plan(frozenset(options.systems), options.rounds or rounds, options.seconds, options.workers, turns)
        )
        show(parts[name])
        _write(options, parts, load)  # after each, so that nothing is lost if a later one fails
    show_goals([verdict for part in parts.values() for verdict in part.verdicts])
    print(f"all figures are in {options.json}", file=sys.stderr)
    return 1 if any(part.spoilt for part in parts.values()) else 0


def _options() -> argparse.Namespace:
    keys = [system.key for system in (*SYSTEMS, *celery.SYSTEMS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_some_of(list(WORKLOADS)), default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--systems", type=_some_of(keys), default=keys, help=", ".join(keys))
    parser.add_argument("--rounds", type=int, default=0, help="default: 5, and 3 of flat, overload and kill")
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--workers", type=int, default=8, help="threads or processes in overload and kill")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/latest.json"))
    return parser.parse_args()


def _some_of(known: list[str]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        words = text.split(",")
        if unknown := set(words) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: it may be {', '.join(known)}")
        return [word for word in known if word in words]

    return chosen


def _turns_in(seconds: float) -> int:
    """How many turns of the loop in `apps/work.py` take about `seconds` here."""
    best, turns, size = float("inf"), 100_000, 0
    for _ in range(5):
        began = time.perf_counter()
        for turn in range(turns):
            size += turn & 3
        best = min(best, time.perf_counter() - began)
    return round(turns * seconds / best)


def _write(options: argparse.Namespace, parts: dict[str, Part], load: float) -> None:
    result = {
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "cpus": os.cpu_count(),
        "load_before": load,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "environments": {one.name: one.packages for one in ENVIRONMENTS},
        "measured": {name: part.measured for name, part in parts.items()},
        "left_out": {name: part.left_out for name, part in parts.items()},
        "verdicts": [asdict(verdict) for part in parts.values() for verdict in part.verdicts],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
