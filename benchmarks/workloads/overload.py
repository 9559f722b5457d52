"""More than can be done: 2 and 5 times the measured capacity, at a constant rate, with 5 ms sleeps.

The number of workers is chosen so that 5 times their capacity is still a rate that one web process and this load can
share two CPUs at: 8 workers can do 1,600 a second at most. Every system has that many, and the limits it comes with.
Callers give up after 5 s and have 2,000 connections; when the load ends, what was not sent is not sent any more.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median

from closed_loop import measure
from environments import Unavailable
from open_loop import Answer, Own, offered, program
from report import Part, Verdict, at_most, ms, percentile, spread, table, there
from routes import SLEEP5
from servers import ask, serving, workers_of
from systems import DEF, LITSERVE, MOSEC, PPE, PROCESS, THREAD, System
from workloads import Plan, say

FACTORS = (2, 5)
CLOSED = 64
"""Connections of the closed loop that measures the capacity."""
SETTLING = 1.0
"""Seconds of a load that are not counted."""
PATIENCE = 5.0
PROMPT = 1.0
"""Seconds after which an answer is of little use to most callers."""
REJECTED = (429, 503)
RECOVERY = 30.0
GOAL_GOODPUT = 0.96
GOAL_REJECT = 0.010


@dataclass(frozen=True)
class Overloaded:
    """One load; shares of the capacity, and seconds."""

    capacity: float
    goodput: float
    """200s."""
    prompt: float
    """200s within `PROMPT`."""
    ok_p50: float | None
    ok_p99: float | None
    reject_p50: float | None
    reject_p99: float | None
    normal_after: float | None
    """Seconds after the load's end; None: not within `RECOVERY`."""
    fates: dict[str, int]
    load: Own


def run(plan: Plan) -> Part:
    part = Part()
    systems = plan.of(PROCESS, THREAD, MOSEC, DEF, PPE, LITSERVE)
    found: dict[int, dict[System, list[Overloaded]]] = {
        factor: {system: [] for system in systems} for factor in FACTORS
    }
    for number in range(plan.rounds):
        for system in systems:
            if system.name in part.left_out:
                continue
            say(f"overload: {system.name}, round {number + 1} of {plan.rounds}")
            try:
                program()
                for factor, one in _overloads(plan, system).items():
                    found[factor][system].append(one)
                    part.remarks += one.load.remark(f"{factor} times, {system.name}")
            except Unavailable as reason:
                part.left_out[system.name] = str(reason)
    columns = ("good, %", f"in {PROMPT:g} s, %", "p50", "p99", "reject p50", "reject p99, ms", "normal after, s")
    title = f"overload, {plan.workers} workers of 5 ms; good answers in % of the capacity"
    overload = table(title, "×", "system", "capacity", *columns)
    for factor, by_system in found.items():
        for system, many in by_system.items():
            if many:
                overload.add_row(str(factor), system.name, *_row(many))
        overload.add_section()
    part.tables = [overload]
    part.verdicts = _verdicts(found[5].get(PROCESS, []))
    part.measured = {
        f"{factor} times": {system.name: [asdict(one) for one in many] for system, many in by_system.items()}
        for factor, by_system in found.items()
    }
    return part


def _overloads(plan: Plan, system: System) -> dict[int, Overloaded]:
    """One start of the system, overloaded by each factor in turn."""
    with serving(system, SLEEP5, workers=plan.workers, turns=plan.turns) as port:
        if system.processes and len(workers_of(port, plan.workers, within=30)) < plan.workers:
            raise Unavailable(f"not all of its {plan.workers} workers came to answer")
        capacity = capacity_of(port, plan)
        return {factor: _overload(port, capacity, factor, SETTLING + plan.seconds) for factor in FACTORS}


def capacity_of(port: int, plan: Plan) -> float:
    """Answers a second in a closed loop, whose last requests are done afterwards.

    The callers that wrk leaves behind at its end would count against the limits of what is measured next.
    """
    measure(port, SLEEP5, CLOSED, 1)  # warm
    ask(port, SLEEP5)
    found = measure(port, SLEEP5, CLOSED, plan.seconds)
    ask(port, SLEEP5)
    if found.failed or not found.rps:
        raise Unavailable(f"{found.failed} of {found.requests} requests failed while its capacity was measured")
    return found.rps


def _overload(port: int, capacity: float, factor: int, seconds: float) -> Overloaded:
    usual = median(_probe(port)[1] for _ in range(20))
    with offered(port, SLEEP5, capacity * factor, seconds, PATIENCE) as load:
        while (left := load.ends - time.monotonic()) > 0:
            time.sleep(left)  # noqa: TID251  (the load takes that long)
        normal_after = _normal_after(port, usual, load.ends)
        answers, own = load.finished()
    counted = [one for one in answers if load.began + SETTLING <= one.ended <= load.ends]
    good = sorted(one.wait for one in counted if one.status == 200)
    rejects = sorted(one.wait for one in counted if one.status in REJECTED)
    could = capacity * (seconds - SETTLING)
    return Overloaded(
        capacity=capacity,
        goodput=len(good) / could,
        prompt=sum(wait <= PROMPT for wait in good) / could,
        ok_p50=percentile(good, 0.5),
        ok_p99=percentile(good, 0.99),
        reject_p50=percentile(rejects, 0.5),
        reject_p99=percentile(rejects, 0.99),
        normal_after=normal_after,
        fates=_fates(answers),
        load=own,
    )


def _normal_after(port: int, usual: float, since: float) -> float | None:
    """Seconds until the first of five answers in a row that are good and not unusually late."""
    limit, row, first = limit_of(usual), 0, 0.0
    while (at := time.monotonic()) < since + RECOVERY:
        status, took = _probe(port)
        first = at if row == 0 else first
        row = row + 1 if status == 200 and took <= limit else 0
        if row == 5:
            return first - since
        time.sleep(0.02)  # noqa: TID251  (a caller now and then, not a load)
    return None


def limit_of(usual: float) -> float:
    """Up to what a wait is normal, where so much is usual."""
    return max(3 * usual, usual + 0.020)


def _probe(port: int) -> tuple[int, float]:
    began = time.monotonic()
    status, _ = ask(port, SLEEP5, timeout=RECOVERY)
    return status, time.monotonic() - began


def _fates(answers: list[Answer]) -> dict[str, int]:
    return dict(Counter(one.fate for one in answers).most_common())


def _row(many: list[Overloaded]) -> list[str]:
    recovered = there(one.normal_after for one in many)
    rejects = there(one.reject_p50 for one in many)
    return [
        f"{median(one.capacity for one in many):,.0f}/s",
        spread((100 * one.goodput for one in many), 1),
        f"{100 * median(one.prompt for one in many):.1f}",
        _s(one.ok_p50 for one in many),
        _s(one.ok_p99 for one in many),
        ms(median(rejects)) if rejects else "–",
        spread((1000 * one for one in there(one.reject_p99 for one in many)), 2),
        spread(recovered, 2) if len(recovered) == len(many) else f"not in {RECOVERY:g}",
    ]


def _s(values: Iterable[float | None]) -> str:
    found = there(values)
    return f"{median(found):.3f} s" if found else "–"


def _verdicts(many: list[Overloaded]) -> list[Verdict]:
    if not many:
        return []
    goodput = median(one.goodput for one in many)
    goal = f"{PROCESS.name}: good answers at 5 times the capacity, {GOAL_GOODPUT:.0%} of it"
    verdict = Verdict(goal, f"{goodput:.1%}", goodput >= GOAL_GOODPUT)
    goal = f"{PROCESS.name}: p99 of the time to reject then, {ms(GOAL_REJECT)}"
    return [verdict, *at_most(goal, there(one.reject_p99 for one in many), GOAL_REJECT)]
