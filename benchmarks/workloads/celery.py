"""An echo of a small JSON body by a Celery worker: awaited with `.get()` in a `def` route, and through offloop.

Both are a web process (FastAPI under uvicorn) and a Celery worker of two processes, with the settings they come with;
each has a broker of its own on this host. The worker is started in the same way, on the same Celery app; offloop's has
its task registered, too. `async def` needs neither worker nor broker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import NamedTuple

from costs import Costed, costed, costs_of
from report import Part, Verdict, at_least, ms, spread, table
from routes import ECHO
from servers import WEB, ask
from systems import ASYNC_DEF, System
from workloads import Plan, Rounds, say, side_by_side

CONNECTIONS = (1, 16, 64)
GOAL_RATE = 1.2
GOAL_ALONE = 0.65
"""Of p50 at 1 connection."""
GOAL_CPU = 0.65
GOAL_CPU_WEB = 0.25

WORKER = ("worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "WARNING")


class Pair(NamedTuple):
    """What is compared: two ways to have the same done by the same Celery."""

    get: System
    offloop: System

    @classmethod
    def over(cls, broker: str) -> "Pair":
        """Over a broker that `brokers.py` has."""
        return cls(
            System(
                f"celery-get-{broker}",
                f"Celery's .get(), {broker}",
                "celery_app",
                "",
                broker=broker,
                beside=(("celery", "--app", "celery_tasks:tasks", *WORKER),),
            ),
            System(
                f"celery-offloop-{broker}",
                f"offloop on Celery, {broker}",
                "celery_offloop_app",
                "",
                {"OFFLOOP_MODE": "cluster"},
                broker=broker,
                engine="celery+",
                beside=(("celery", "--app", "celery_offloop_tasks:tasks", *WORKER),),
            ),
        )


BROKERS = ("redis", "amqp")
PAIRS = tuple(map(Pair.over, BROKERS))
SYSTEMS = tuple(system for pair in PAIRS for system in pair)

Found = Rounds[Costed]


def run(plan: Plan) -> Part:
    part, rounds = Part(), Found()
    with side_by_side(plan, plan.of(ASYNC_DEF, *SYSTEMS), ECHO, part) as ports:
        for port in ports.values():
            _measured(port, max(CONNECTIONS), 1)  # warm: all the threads that a route may have
        for number in range(plan.rounds):
            say(f"celery: round {number + 1} of {plan.rounds}")
            for connections in CONNECTIONS:
                for system, port in ports.items():
                    rounds.note(_at(connections), system, number, _measured(port, connections, plan.seconds))
    yardsticks = {system: pair.get for pair in PAIRS for system in pair}
    columns = ("req/s", "× .get() (range)", "p50", "p99", "CPU, µs", "web", "workers", "broker")
    echo = table("echo by a Celery worker of two processes; CPU time of a request", "connections", "system", *columns)
    for connections in CONNECTIONS:
        what = _at(connections)
        for system in ports:
            found = rounds.of(what, system)
            echo.add_row(
                str(connections),
                system.name,
                f"{median(one.rps for one in found):,.0f}",
                spread(rounds.ratios(what, system, yardsticks[system])) if system in yardsticks else "–",
                ms(median(one.p50 for one in found)),
                ms(median(one.p99 for one in found)),
                *costs_of(found),
            )
        echo.add_section()
    part.tables = [echo]
    part.verdicts = [verdict for pair in PAIRS for verdict in _verdicts(rounds, pair)]
    _judge_failures(part, rounds, ports)
    part.measured = {
        what: {name: [asdict(one) for one in many.values()] for name, many in named.items()}
        for what, named in rounds.items()
    }
    return part


def _measured(port: int, connections: int, seconds: int) -> Costed:
    found = costed(port, ECHO, connections, seconds)
    # What wrk no longer waits for is still done, before one request more: the next system is not to pay for it.
    ask(port, ECHO, 15.0)
    return found


def _at(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def _judge_failures(part: Part, rounds: Found, systems: Mapping[System, int]) -> None:
    """What Celery alone does not answer is told, and spoils nothing of ours."""
    others = {pair.get.name for pair in PAIRS if pair.get in systems}
    for line in rounds.spoilt():
        (part.remarks if any(line.endswith(f", {name})") for name in others) else part.spoilt).append(line)


def _verdicts(rounds: Found, pair: Pair) -> list[Verdict]:
    def ratios(connections: int, value: Callable[[Costed], float]) -> list[float]:
        return rounds.ratios(_at(connections), pair.offloop, pair.get, value)

    subject, verdicts = f"{pair.offloop.name}: echo", list[Verdict]()
    for connections in CONNECTIONS:
        goal = f"{subject}, {GOAL_RATE} times the requests of `.get()` at {_at(connections)}"
        verdicts += at_least(goal, ratios(connections, lambda one: one.rps), GOAL_RATE)
    goal = f"{subject}, p50 at 1 connection within {GOAL_ALONE} times `.get()`"
    verdicts += _within(goal, ratios(1, lambda one: one.p50), GOAL_ALONE)
    for connections in CONNECTIONS:
        goal = f"{subject}, CPU of a request within {GOAL_CPU} times `.get()` at {_at(connections)}"
        verdicts += _within(goal, ratios(connections, lambda one: one.cpu_a_request), GOAL_CPU)
        goal = f"{subject}, the web side's CPU within {GOAL_CPU_WEB} times `.get()` at {_at(connections)}"
        verdicts += _within(goal, ratios(connections, lambda one: one.cpu_a_request_of(WEB)), GOAL_CPU_WEB)
    return verdicts


def _within(goal: str, ratios: Sequence[float], ceiling: float) -> list[Verdict]:
    """A verdict on the median of ratios that should be small; none where one side was not measured."""
    return [Verdict(goal, f"{median(ratios):.2f} times", median(ratios) <= ceiling)] if ratios else []
