"""Cluster mode as it grows: whether a request costs more where there are more web processes, workers, or waiters.

What an echo costs is CPU time of all processes, the broker's too: on a machine with few CPUs more processes cannot be
faster, but each request must not cost more. Each web process brings callers of its own, and is measured twice. At a
constant rate each has the same to do however many there are. Where callers wait for each other, one process takes a
CPU, and many get a share of it each, so that less is done in a turn; and where there are more of them than CPUs they
take these, and their caches, from each other: a request costs more then whatever it does, so what it costs in as many
processes with an `async def` route is told beside it, and what is more than theirs is judged. Waiters are requests to
another pool, whose only worker is held up; their callers' connections are open all the while.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from costs import Costed, costed, costed_at, costs_of
from environments import Unavailable
from holding import allow, waiters
from report import Part, Verdict, spread, table
from routes import ECHO, STATUS
from servers import ask, serving
from systems import ASYNC_DEF, CLUSTER, HOLDING, System
from workloads import Plan, Rounds, say

CONNECTIONS = 64
OF_ONE = 16
"""Connections of each web process, where those are counted."""
RATE_OF_ONE = 1_000
"""Requests a second of each, where they come at a constant rate."""
GOAL_FLAT = 1.25
WITHIN = 60.0


@dataclass(frozen=True)
class Size:
    """How large it is."""

    webs: int = 1
    workers: int = 1
    waiters: int = 0
    connections: int = CONNECTIONS
    rate: int = 0
    """Requests a second of each web process; 0: as many as its connections make."""

    @property
    def load(self) -> str:
        return f"{self.webs} × {self.rate:,}/s" if self.rate else f"{self.connections} connections"

    def __str__(self) -> str:
        counts = f"{self.webs} web processes, {self.workers} workers, {self.waiters:,} waiters"
        return f"{counts}, {self.load}"


WEBS = tuple(Size(webs=count, connections=count * OF_ONE) for count in (1, 2, 4))
STEADY = tuple(Size(webs=count, rate=RATE_OF_ONE) for count in (1, 2, 4))
WORKERS = tuple(Size(workers=count) for count in (1, 4, 16))
WAITERS = tuple(Size(waiters=count) for count in (10, 1_000, 10_000))
SERIES = {"web processes": STEADY, "busy web processes": WEBS, "workers": WORKERS, "waiters": WAITERS}

Found = Rounds[Costed]


def run(plan: Plan) -> Part:
    part, rounds = Part(), Found()
    for number in range(plan.rounds if plan.of(CLUSTER) else 0):
        if part.left_out:
            break
        say(f"flat: round {number + 1} of {plan.rounds}")
        try:
            for size in (*STEADY, *WEBS, *WORKERS):
                with serving(CLUSTER, ECHO, workers=size.workers, webs=size.webs) as port:
                    _all_up(port, size.workers)
                    rounds.note(str(size), CLUSTER, number, _costed(port, size, plan.seconds))
            for size in WEBS if plan.of(ASYNC_DEF) else ():
                with serving(ASYNC_DEF, ECHO, webs=size.webs) as port:
                    rounds.note(str(size), ASYNC_DEF, number, _costed(port, size, plan.seconds))
            _beside_waiters(plan, rounds, number)
        except Unavailable as reason:
            part.left_out[CLUSTER.name] = str(reason)
    columns = ("load", "× the first (range)", "req/s", "CPU, µs", "web", "workers", "broker")
    flat = table("CPU time of an echo", "", "system", *columns)
    for named, sizes in SERIES.items():
        for system in (CLUSTER, ASYNC_DEF):
            for size in sizes:
                if found := rounds.of(str(size), system):
                    growth = spread(_growth(rounds, system, sizes[0], size))
                    rate = f"{median(one.rps for one in found):,.0f}"
                    flat.add_row(_named(named, size), system.name, size.load, growth, rate, *costs_of(found))
            flat.add_section()
        part.verdicts += _verdicts(rounds, named, sizes)
    part.tables, part.spoilt = [flat], rounds.spoilt()
    part.measured = {
        what: [asdict(one) for many in named.values() for one in many.values()] for what, named in rounds.items()
    }
    return part


def _beside_waiters(plan: Plan, rounds: Found, number: int) -> None:
    allow(WAITERS[-1].waiters)
    with serving(HOLDING, ECHO, workers=1) as port, waiters(port) as waiting:
        _all_up(port, 2)
        costed(port, ECHO, CONNECTIONS, 1)  # warm
        for size in WAITERS:
            waiting.grow(size.waiters)
            rounds.note(str(size), CLUSTER, number, costed(port, ECHO, size.connections, plan.seconds))


def _all_up(port: int, workers: int) -> None:
    """Until none of them is still starting, which would count with what is measured."""
    there, deadline = 0, time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        status, body = ask(port, STATUS)
        if status == 200 and (there := sum(json.loads(body)["workers"].values())) >= workers:
            return
        time.sleep(0.05)  # noqa: TID251  (other processes start; there is nothing to wait on)
    raise Unavailable(f"{there} of {workers} workers came up")


def _costed(port: int, size: Size, seconds: int) -> Costed:
    costed(port, ECHO, size.connections, 1)  # warm
    if size.rate:
        return costed_at(port, ECHO, size.rate, seconds)
    return costed(port, ECHO, size.connections, seconds)


def _verdicts(rounds: Found, named: str, sizes: Sequence[Size]) -> list[Verdict]:
    growths = [_growth(rounds, CLUSTER, sizes[0], size) for size in sizes]
    if not all(growths):
        return []
    goal = f"{CLUSTER.name}: CPU of a request, {_named('', sizes[0])} to {_named(named, sizes[-1])}"
    most = max(map(median, growths))
    beside = [_growth(rounds, ASYNC_DEF, sizes[0], size) for size in sizes]
    if not all(beside):
        return [Verdict(f"{goal}, within {GOAL_FLAT} times", f"up to {most:.2f} times", most <= GOAL_FLAT)]
    more = max(median(growth) / median(control) for growth, control in zip(growths, beside, strict=True))
    found = f"up to {most:.2f} times, which is {more:.2f} times what it is there"
    return [Verdict(f"{goal}, within {GOAL_FLAT} times that of {ASYNC_DEF.name}", found, more <= GOAL_FLAT)]


def _growth(rounds: Found, system: System, first: Size, size: Size) -> list[float]:
    """How much more CPU a request takes there than at first, in each round."""
    ones, others = (rounds.get(str(each), {}).get(system.name, {}) for each in (size, first))
    return [one.cpu_a_request / others[number].cpu_a_request for number, one in ones.items() if number in others]


def _named(named: str, size: Size) -> str:
    return f"{max(size.webs, size.workers, size.waiters):,} {named}".strip()
