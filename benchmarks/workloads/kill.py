"""SIGKILL for one worker process at half of the measured capacity, with 5 ms sleeps.

The victim is a process that answered a moment before, so it is one that works. Every system has the same number of
workers and the time-outs it comes with; LitServe runs with `restart_workers`, since by default its first dead worker
ends its server. Callers give up after 15 s. Once its pool is broken, the application with the ProcessPoolExecutor
answers 500, and uvicorn then closes the connection: that is what is broken off.
"""

import os
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass
from statistics import median

from environments import Unavailable
from open_loop import Answer, Own, offered, program
from report import Part, table, there
from routes import SLEEP5
from servers import serving, workers_of
from systems import LITSERVE_RESTARTING, MOSEC, PPE, PROCESS, System
from workloads import Plan, say
from workloads.overload import capacity_of, limit_of

BEFORE, AFTER = 2.0, 6.0
"""Seconds of the load on either side of the kill."""
PATIENCE = 15.0
WINDOW = 0.25
"""Seconds in which at least `NORMAL` of the requests that are due are answered well, when service is normal."""
NORMAL = 0.99


@dataclass(frozen=True)
class Killed:
    """One kill; times in seconds, counted from it."""

    rate: float
    failed: int
    how: dict[str, int]
    longest_failure: float
    """How long a caller waited at most to learn of a failure."""
    normal_after: float | None
    """None: not while the load went on."""
    workers_after: int
    load: Own


def run(plan: Plan) -> Part:
    part = Part()
    systems = plan.of(PROCESS, PPE, MOSEC, LITSERVE_RESTARTING)
    found: dict[System, list[Killed]] = {system: [] for system in systems}
    for number in range(plan.rounds):
        for system in systems:
            if system.name in part.left_out:
                continue
            say(f"kill: {system.name}, round {number + 1} of {plan.rounds}")
            try:
                program()
                found[system].append(one := _kill(plan, system))
                part.remarks += one.load.remark(system.name)
            except Unavailable as reason:
                part.left_out[system.name] = str(reason)
    columns = (
        "failed (most)",
        "how, in all rounds",
        "longest wait of a failure",
        "normal after (most)",
        "workers then",
    )
    killed = table(f"SIGKILL of 1 of {plan.workers} workers at half of the capacity", "system", "rate", *columns)
    for system, many in found.items():
        if many:
            killed.add_row(system.name, *_row(many, plan.workers))
    part.tables = [killed]
    part.measured = {system.name: [asdict(one) for one in many] for system, many in found.items()}
    return part


def _kill(plan: Plan, system: System) -> Killed:
    with serving(system, SLEEP5, workers=plan.workers, turns=plan.turns) as port:
        workers = workers_of(port, plan.workers, within=30)
        if len(workers) < plan.workers:
            raise Unavailable(f"not all of its {plan.workers} workers came to answer")
        rate = capacity_of(port, plan) / 2
        with offered(port, SLEEP5, rate, BEFORE + AFTER, PATIENCE) as load:
            time.sleep(max(0.0, load.began + BEFORE - time.monotonic()))  # noqa: TID251  (the load takes that long)
            killed = time.monotonic()
            os.kill(min(workers), signal.SIGKILL)
            answers, own = load.finished()
        alive = workers_of(port, plan.workers, within=3)
    if not (before := [one for one in answers if one.ended < killed]) or any(one.status != 200 for one in before):
        raise Unavailable("it failed requests before anything was killed")
    failed = [one for one in answers if one.status != 200]
    return Killed(
        rate=rate,
        failed=len(failed),
        how=dict(Counter(one.fate for one in failed).most_common()),
        longest_failure=max((one.wait for one in failed), default=0.0),
        normal_after=_normal_after(answers, killed, limit_of(median(one.wait for one in before))),
        workers_after=len(alive),
        load=own,
    )


def _normal_after(answers: list[Answer], killed: float, limit: float) -> float | None:
    """The end of the last window of time that was not normal; up to `limit`, a wait is."""
    windows: dict[int, list[bool]] = {}
    for one in answers:
        if one.due >= killed:
            well = one.status == 200 and one.wait <= limit
            windows.setdefault(int((one.due - killed) / WINDOW), []).append(well)
    ends = [(index + 1) * WINDOW for index, well in windows.items() if sum(well) < NORMAL * len(well)]
    after = max(ends, default=0.0)
    return after if after < AFTER - WINDOW else None


def _row(many: list[Killed], workers: int) -> list[str]:
    how = sum((Counter(one.how) for one in many), Counter[str]())
    normal = there(one.normal_after for one in many)
    failed = [one.failed for one in many]
    return [
        f"{median(one.rate for one in many):,.0f}/s",
        f"{median(failed):,.0f} ({max(failed):,})",
        ", ".join(f"{fate}: {count:,}" for fate, count in how.most_common()) or "–",
        f"{max(one.longest_failure for one in many):.3f} s" if any(failed) else "–",
        f"{median(normal):.2f} s ({max(normal):.2f})" if len(normal) == len(many) else f"not within {AFTER:g} s",
        f"{min(one.workers_after for one in many)} of {workers}",
    ]
