"""`make bench`: an echo endpoint through offloop, beside FastAPI's own `async def` and `def` routes.

    python benchmarks/run.py --rounds 5 --seconds 4

Every system is one uvicorn process (uvloop, httptools, no access log) on loopback, with the same pydantic models. The
systems take turns in every round, so that what the machine does meanwhile meets all of them; a ratio is taken within
a round, and the median and the range over the rounds are reported. wrk is a closed loop and shares the machine's CPUs
with what it measures.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from servers import Measured, System, loading, measure, serving

YARDSTICK = "async def"
OFFLOOP = "offloop"
ONE_LOOP = "offloop, 1 thread"
"""How work that holds the GIL is run: more loops than one only take it from each other, and from the event loop."""
SYSTEMS = (
    System(YARDSTICK, "async_def", {}),
    System("def", "plain_def", {}),
    System(OFFLOOP, "offloop_app", {"OFFLOOP_MODE": "thread"}),
    System(ONE_LOOP, "offloop_app", {"OFFLOOP_MODE": "thread", "OFFLOOP_THREADS": "1"}),
)
CONNECTIONS = (1, 16, 64)
SPINNING = 8
"""Connections that keep the 10 ms functions busy while /ping is measured."""
GOAL_RATIO = 1.5
GOAL_PING = 0.005

Rounds = dict[str, dict[str, list[Measured]]]
"""What was measured (`echo 16`, `ping`) → system → one measurement per round."""


@dataclass(frozen=True)
class Verdict:
    goal: str
    found: str
    held: bool


def main() -> int:
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: `make bench` installs it, or apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended then, too
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"this machine is busy (load {load:.1f}): the figures will say so", file=sys.stderr)
    turns = _turns_in(0.010)
    rounds: Rounds = {}
    with ExitStack() as servers:
        ports = {system.name: servers.enter_context(serving(system, turns)) for system in SYSTEMS}
        for port in ports.values():
            measure(port, "/echo", 16, 1)  # warm
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            _round(ports, options.seconds, rounds)
    verdicts = _verdicts(rounds)
    _report(rounds, verdicts)
    _write(options, rounds, verdicts, load)
    failed = sum(one.failed for systems in rounds.values() for many in systems.values() for one in many)
    if failed:
        print(f"{failed} requests were not answered with 200: these figures mean nothing", file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/latest.json"))
    return parser.parse_args()


def _turns_in(seconds: float) -> int:
    """How many turns of the loop in `apps/work.py` take about `seconds` here."""
    best, turns, size = float("inf"), 100_000, 0
    for _ in range(5):
        began = time.perf_counter()
        for turn in range(turns):
            size += turn & 3
        best = min(best, time.perf_counter() - began)
    return round(turns * seconds / best)


def _round(ports: dict[str, int], seconds: int, rounds: Rounds) -> None:
    for connections in CONNECTIONS:
        for name, port in ports.items():
            measured = measure(port, "/echo", connections, seconds)
            rounds.setdefault(f"echo {connections}", {}).setdefault(name, []).append(measured)
    for name, port in ports.items():
        with loading(port, "/cpu10", SPINNING, seconds + 60):
            measure(port, "/ping", 1, 1, body="")  # until the load is up
            measured = measure(port, "/ping", 1, seconds, body="")
        rounds.setdefault("ping", {}).setdefault(name, []).append(measured)
        measure(port, "/echo", 1, 1)  # until what the load left behind is done


def _ratios(rounds: Rounds, what: str, system: str) -> list[float]:
    """Requests per second over the yardstick's in the same round."""
    pairs = zip(rounds[what][system], rounds[what][YARDSTICK], strict=True)
    return [one.rps / yardstick.rps for one, yardstick in pairs]


def _p99(rounds: Rounds, what: str, system: str) -> float:
    return median(one.p99 for one in rounds[what][system])


def _verdicts(rounds: Rounds) -> list[Verdict]:
    verdicts = []
    for connections in (16, 64):
        ratio = median(_ratios(rounds, f"echo {connections}", OFFLOOP))
        goal = f"{GOAL_RATIO} times `async def` at {connections} connections"
        verdicts.append(Verdict(goal, f"{ratio:.2f} times", ratio >= GOAL_RATIO))
    own, theirs = (_p99(rounds, "echo 64", system) for system in (OFFLOOP, YARDSTICK))
    verdicts.append(Verdict("p99 at 64 not above `async def`", f"{_ms(own)} against {_ms(theirs)}", own <= theirs))
    ping = _p99(rounds, "ping", ONE_LOOP)
    goal = f"/ping p99 of {_ms(GOAL_PING)} beside a busy loop ({ONE_LOOP})"
    verdicts.append(Verdict(goal, _ms(ping), ping <= GOAL_PING))
    return verdicts


def _report(rounds: Rounds, verdicts: list[Verdict]) -> None:
    console = Console(width=110)
    echo = Table(
        "connections", "system", "req/s", "× async def (range)", "p50", "p99 (range)", title="echo", box=SIMPLE
    )
    for connections in CONNECTIONS:
        for system, measured in rounds[f"echo {connections}"].items():
            ratios = _ratios(rounds, f"echo {connections}", system)
            echo.add_row(
                str(connections),
                system,
                f"{median(one.rps for one in measured):,.0f}",
                f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                _ms(median(one.p50 for one in measured)),
                _range([one.p99 for one in measured]),
            )
        echo.add_section()
    ping = Table(
        "system",
        "p50",
        "p99 (range)",
        "longest",
        title=f"/ping beside {SPINNING} connections of 10 ms work",
        box=SIMPLE,
    )
    for system, measured in rounds["ping"].items():
        p50, longest = median(one.p50 for one in measured), max(one.max for one in measured)
        ping.add_row(system, _ms(p50), _range([one.p99 for one in measured]), _ms(longest))
    goals = Table("goal", "found", "", title="goals", box=SIMPLE)
    for verdict in verdicts:
        goals.add_row(verdict.goal, verdict.found, "held" if verdict.held else "missed")
    for table in (echo, ping, goals):
        console.print(table)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _range(seconds: list[float]) -> str:
    return f"{_ms(median(seconds))} ({min(seconds) * 1000:.2f}-{max(seconds) * 1000:.2f})"


def _write(options: argparse.Namespace, rounds: Rounds, verdicts: list[Verdict], load: float) -> None:
    packages = ("offloop", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic", "msgspec")
    result = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "cpus": os.cpu_count(),
        "load_before": load,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "measured": {
            what: {system: [asdict(one) for one in many] for system, many in systems.items()}
            for what, systems in rounds.items()
        },
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"all figures are in {options.json}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
