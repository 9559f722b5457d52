"""A plain route of the application beside work of 10 ms that holds the GIL: whether the event loop stays free."""

from dataclasses import asdict
from statistics import median

from closed_loop import Measured, loading, measure
from report import Part, at_most, ms, ms_range, table
from routes import CPU10, ECHO, PING
from systems import ASYNC_DEF, DEF, ONE_THREAD, PPE, PROCESS, THREAD
from workloads import Plan, Rounds, say, side_by_side

SPINNING = 8
"""Connections that keep the 10 ms functions busy."""
GOALS = ((PROCESS, 0.0015), (ONE_THREAD, 0.005))


def run(plan: Plan) -> Part:
    part, rounds = Part(), Rounds[Measured]()
    with side_by_side(plan, plan.of(ASYNC_DEF, DEF, THREAD, ONE_THREAD, PROCESS, PPE), ECHO, part) as ports:
        for number in range(plan.rounds):
            say(f"ping: round {number + 1} of {plan.rounds}")
            for system, port in ports.items():
                with loading(port, CPU10, SPINNING, plan.seconds + 60):
                    measure(port, PING, 1, 1)  # until the load is up
                    rounds.note("ping", system, number, measure(port, PING, 1, plan.seconds))
                measure(port, ECHO, 1, 1)  # until what the load left behind is done
    ping = table(f"/ping beside {SPINNING} connections of 10 ms work", "system", "p50", "p99, ms (range)", "longest")
    for system in ports:
        found = rounds.of("ping", system)
        longest = max(one.max for one in found)
        ping.add_row(
            system.name, ms(median(one.p50 for one in found)), ms_range([one.p99 for one in found]), ms(longest)
        )
    for system, ceiling in GOALS:
        goal = f"{system.name}: /ping p99 of {ms(ceiling)} beside busy loops"
        part.verdicts += at_most(goal, [one.p99 for one in rounds.of("ping", system)], ceiling)
    part.tables, part.spoilt = [ping], rounds.spoilt()
    part.measured = {name: [asdict(one) for one in many.values()] for name, many in rounds.get("ping", {}).items()}
    return part
