"""An echo of a small JSON body over a broker: what it costs to have it done by a process of its own, maybe elsewhere.

All are a web process (FastAPI under uvicorn) and one worker process, which runs a function that blocks, with the
settings they come with; each has a broker of its own on this host. taskiq is asked as it comes, and as often as is
of use. `async def` needs neither worker nor broker.
"""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median

from costs import Costed, costed, costs_of
from report import Part, Verdict, at_least, ms, spread, table
from routes import ECHO
from systems import ASYNC_DEF, BEHIND_BROKERS, CLUSTER, System
from workloads import Plan, Rounds, say, side_by_side

CONNECTIONS = (1, 16, 64)
GOALS = {16: 1.0, 64: 1.3}
"""How many times the rate of `async def`, by connections."""
GOAL_ALONE = 3.0

Found = Rounds[Costed]


def run(plan: Plan) -> Part:
    part, rounds = Part(), Found()
    with side_by_side(plan, plan.of(ASYNC_DEF, *BEHIND_BROKERS), ECHO, part) as ports:
        for port in ports.values():
            costed(port, ECHO, 16, 1)  # warm
        for number in range(plan.rounds):
            say(f"cluster: round {number + 1} of {plan.rounds}")
            for connections in CONNECTIONS:
                for system, port in ports.items():
                    rounds.note(_at(connections), system, number, costed(port, ECHO, connections, plan.seconds))
    columns = ("req/s", "× async def (range)", "p50", "p99", "CPU, µs", "web", "workers", "broker")
    echo = table("echo over a broker, one worker; CPU time of a request", "connections", "system", *columns)
    for connections in CONNECTIONS:
        what = _at(connections)
        for system in ports:
            found = rounds.of(what, system)
            echo.add_row(
                str(connections),
                system.name,
                f"{median(one.rps for one in found):,.0f}",
                spread(rounds.ratios(what, system, ASYNC_DEF)),
                ms(median(one.p50 for one in found)),
                ms(median(one.p99 for one in found)),
                *costs_of(found),
            )
        echo.add_section()
    part.tables, part.verdicts = [echo], _verdicts(rounds)
    _judge_failures(part, rounds, ports)
    part.measured = {
        what: {name: [asdict(one) for one in many.values()] for name, many in named.items()}
        for what, named in rounds.items()
    }
    return part


def _at(connections: int) -> str:
    return f"{connections} connections"


def _judge_failures(part: Part, rounds: Found, systems: Mapping[System, int]) -> None:
    """What others do not answer is told, and spoils nothing of ours."""
    ours = {system.name for system in (ASYNC_DEF, CLUSTER) if system in systems}
    for line in rounds.spoilt():
        (part.spoilt if any(line.endswith(f", {name})") for name in ours) else part.remarks).append(line)


def _verdicts(rounds: Found) -> list[Verdict]:
    verdicts = []
    for connections, floor in GOALS.items():
        goal = f"{CLUSTER.name}: echo, {floor} times `async def` at {connections} connections"
        verdicts += at_least(goal, rounds.ratios(_at(connections), CLUSTER, ASYNC_DEF), floor)
    if alone := rounds.ratios(_at(1), CLUSTER, ASYNC_DEF, lambda one: one.p50):
        goal = f"{CLUSTER.name}: echo, p50 at 1 connection within {GOAL_ALONE:g} times `async def`"
        verdicts.append(Verdict(goal, f"{median(alone):.2f} times", median(alone) <= GOAL_ALONE))
    return verdicts
