"""Cluster mode as it grows: whether a request costs more where there are more web processes, workers, or waiters.

What an echo costs is CPU time of all processes, the broker's too: on a machine with few CPUs more processes cannot be
faster, but each request must not cost more. Waiters are requests to another pool, whose only worker is held up; their
callers' connections are open all the while.
"""

import json
import time
from dataclasses import asdict, dataclass
from statistics import median

from costs import Costed, costed, costs_of
from environments import Unavailable
from holding import allow, waiters
from report import Part, Verdict, spread, table
from routes import ECHO, STATUS
from servers import ask, serving
from systems import CLUSTER, HOLDING
from workloads import Plan, Rounds, say

CONNECTIONS = 64
GOAL_FLAT = 1.25
WITHIN = 60.0


@dataclass(frozen=True)
class Size:
    """How large it is."""

    webs: int = 1
    workers: int = 1
    waiters: int = 0

    def __str__(self) -> str:
        return f"{self.webs} web processes, {self.workers} workers, {self.waiters:,} waiters"


ONE = Size()
WEBS = (ONE, Size(webs=2), Size(webs=4))
WORKERS = (ONE, Size(workers=4), Size(workers=16))
WAITERS = tuple(Size(waiters=count) for count in (10, 1_000, 10_000))
SERIES = {"web processes": WEBS, "workers": WORKERS, "waiters": WAITERS}

Found = Rounds[Costed]


def run(plan: Plan) -> Part:
    part, rounds = Part(), Found()
    for number in range(plan.rounds if plan.of(CLUSTER) else 0):
        if part.left_out:
            break
        say(f"flat: round {number + 1} of {plan.rounds}")
        try:
            for size in dict.fromkeys((*WEBS, *WORKERS)):
                with serving(CLUSTER, ECHO, workers=size.workers, webs=size.webs) as port:
                    _all_up(port, size.workers)
                    costed(port, ECHO, CONNECTIONS, 1)  # warm
                    rounds.note(str(size), CLUSTER, number, costed(port, ECHO, CONNECTIONS, plan.seconds))
            _beside_waiters(plan, rounds, number)
        except Unavailable as reason:
            part.left_out[CLUSTER.name] = str(reason)
    columns = ("× the first (range)", "req/s", "CPU, µs", "web", "workers", "broker")
    flat = table(f"cluster mode, CPU time of an echo, {CONNECTIONS} connections", "", *columns)
    for named, sizes in SERIES.items():
        for size in sizes:
            if found := rounds.of(str(size), CLUSTER):
                growth = spread(_growth(rounds, sizes[0], size))
                rate = f"{median(one.rps for one in found):,.0f}"
                flat.add_row(_named(named, size), growth, rate, *costs_of(found))
        flat.add_section()
        if most := [median(growth) for size in sizes if (growth := _growth(rounds, sizes[0], size))]:
            goal = f"{CLUSTER.name}: CPU of a request, {_named('', sizes[0])} to {_named(named, sizes[-1])}"
            held = max(most) <= GOAL_FLAT
            part.verdicts.append(Verdict(f"{goal}, within {GOAL_FLAT} times", f"up to {max(most):.2f} times", held))
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
            rounds.note(str(size), CLUSTER, number, costed(port, ECHO, CONNECTIONS, plan.seconds))


def _all_up(port: int, workers: int) -> None:
    """Until none of them is still starting, which would count with what is measured."""
    there, deadline = 0, time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        status, body = ask(port, STATUS)
        if status == 200 and (there := sum(json.loads(body)["workers"].values())) >= workers:
            return
        time.sleep(0.05)  # noqa: TID251  (other processes start; there is nothing to wait on)
    raise Unavailable(f"{there} of {workers} workers came up")


def _growth(rounds: Found, first: Size, size: Size) -> list[float]:
    """How much more CPU a request takes there than at first, in each round."""
    ones, others = (rounds.get(str(each), {}).get(CLUSTER.name, {}) for each in (size, first))
    return [one.cpu_a_request / others[number].cpu_a_request for number, one in ones.items() if number in others]


def _named(named: str, size: Size) -> str:
    count = {"web processes": size.webs, "workers": size.workers}.get(named)
    return f"{count or max(size.webs, size.workers, size.waiters):,} {named}".strip()
