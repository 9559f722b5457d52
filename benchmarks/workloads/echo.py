"""An echo of a small JSON body: what it costs to cross over to where the work is done, and back.

Every system with worker processes has one of them, as LitServe and Mosec come; the threads are as they come, too.
"""

from dataclasses import asdict
from statistics import median

from closed_loop import Measured, measure
from report import Part, Verdict, at_least, ms, ms_range, spread, table
from routes import ECHO
from systems import ASYNC_DEF, DEF, LITSERVE, MOSEC, ONE_THREAD, PPE, PROCESS, THREAD
from workloads import Plan, Rounds, say, side_by_side

CONNECTIONS = (1, 16, 64)
GOAL_RATIO = 1.5
GOAL_ALONE = 1.25
GOAL_MOSEC = 1.3
GOAL_LITSERVE = 7.0


def run(plan: Plan) -> Part:
    part, rounds = Part(), Rounds[Measured]()
    systems = plan.of(ASYNC_DEF, DEF, THREAD, ONE_THREAD, PROCESS, PPE, MOSEC, LITSERVE)
    with side_by_side(plan, systems, ECHO, part) as ports:
        for port in ports.values():
            measure(port, ECHO, 16, 1)  # warm
        for number in range(plan.rounds):
            say(f"echo: round {number + 1} of {plan.rounds}")
            for connections in CONNECTIONS:
                for system, port in ports.items():
                    rounds.note(_at(connections), system, number, measure(port, ECHO, connections, plan.seconds))
    columns = ("req/s", "× async def (range)", "× Mosec", "× LitServe", "p50", "p99, ms (range)")
    echo = table("echo, one worker", "connections", "system", *columns)
    for connections in CONNECTIONS:
        what = _at(connections)
        for system in ports:
            found = rounds.of(what, system)
            others = [rounds.ratios(what, system, other) for other in (MOSEC, LITSERVE)]
            echo.add_row(
                str(connections),
                system.name,
                f"{median(one.rps for one in found):,.0f}",
                spread(rounds.ratios(what, system, ASYNC_DEF)),
                *(f"{median(ratios):.2f}" if ratios else "–" for ratios in others),
                ms(median(one.p50 for one in found)),
                ms_range([one.p99 for one in found]),
            )
        echo.add_section()
    part.tables, part.verdicts, part.spoilt = [echo], _verdicts(rounds), rounds.spoilt()
    part.measured = {
        what: {name: [asdict(one) for one in many.values()] for name, many in named.items()}
        for what, named in rounds.items()
    }
    return part


def _at(connections: int) -> str:
    return f"{connections} connections"


def _verdicts(rounds: Rounds[Measured]) -> list[Verdict]:
    verdicts = []
    for system in (PROCESS, THREAD):
        for connections in (16, 64):
            goal = f"{system.name}: echo, {GOAL_RATIO} times `async def` at {connections} connections"
            verdicts += at_least(goal, rounds.ratios(_at(connections), system, ASYNC_DEF), GOAL_RATIO)
    alone = rounds.ratios(_at(1), PROCESS, ASYNC_DEF, lambda one: one.p50)
    if alone:
        goal = f"{PROCESS.name}: echo, p50 at 1 connection within {GOAL_ALONE} times `async def`"
        verdicts.append(Verdict(goal, f"{median(alone):.2f} times", median(alone) <= GOAL_ALONE))
    for rival, floor in ((MOSEC, GOAL_MOSEC), (LITSERVE, GOAL_LITSERVE)):
        goal = f"{PROCESS.name}: echo, {floor} times {rival.name} at 16 connections"
        verdicts += at_least(goal, rounds.ratios(_at(16), PROCESS, rival), floor)
    own, theirs = ([one.p99 for one in rounds.of(_at(64), system)] for system in (THREAD, ASYNC_DEF))
    if own and theirs:
        found = f"{ms(median(own))} against {ms(median(theirs))}"
        goal = f"{THREAD.name}: echo, p99 at 64 connections not above `async def`"
        verdicts.append(Verdict(goal, found, median(own) <= median(theirs)))
    return verdicts
