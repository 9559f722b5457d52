"""The sha256 of a raw body of 1 MiB, over 8 connections: what it costs to hand a large payload over.

LitServe takes JSON only and is left out: base64 would measure its decoding.
"""

from dataclasses import asdict
from statistics import median

from closed_loop import Measured, measure
from report import Part, at_least, ms, ms_range, spread, table
from routes import BIG
from systems import ASYNC_DEF, DEF, LITSERVE, MOSEC, PPE, PROCESS, THREAD
from workloads import Plan, Rounds, say, side_by_side

CONNECTIONS = 8
GOAL_RATIO = 1.0


def run(plan: Plan) -> Part:
    part, rounds, what = Part(), Rounds[Measured](), f"{CONNECTIONS} connections"
    with side_by_side(plan, plan.of(ASYNC_DEF, DEF, THREAD, PROCESS, PPE, MOSEC), BIG, part) as ports:
        for port in ports.values():
            measure(port, BIG, CONNECTIONS, 1)  # warm
        for number in range(plan.rounds):
            say(f"big: round {number + 1} of {plan.rounds}")
            for system, port in ports.items():
                rounds.note(what, system, number, measure(port, BIG, CONNECTIONS, plan.seconds))
    big = table(
        f"sha256 of 1 MiB, {CONNECTIONS} connections, one worker",
        *("system", "req/s", "× async def (range)", "p50", "p99, ms (range)"),
    )
    for system in ports:
        found = rounds.of(what, system)
        big.add_row(
            system.name,
            f"{median(one.rps for one in found):,.0f}",
            spread(rounds.ratios(what, system, ASYNC_DEF)),
            ms(median(one.p50 for one in found)),
            ms_range([one.p99 for one in found]),
        )
    if plan.of(LITSERVE):
        part.left_out[LITSERVE.name] = "it takes JSON only"
    goal = f"{PROCESS.name}: 1 MiB, {GOAL_RATIO} times `async def`"
    part.tables, part.spoilt = [big], rounds.spoilt()
    part.verdicts = at_least(goal, rounds.ratios(what, PROCESS, ASYNC_DEF), GOAL_RATIO)
    part.measured = {name: [asdict(one) for one in many.values()] for name, many in rounds.get(what, {}).items()}
    return part
