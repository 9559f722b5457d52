"""A load, and what it cost: CPU time of all parts of a system, which counts where the CPUs are shared."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from closed_loop import Measured, measure
from open_loop import offered
from routes import Route
from servers import BROKER, WEB, WORKERS, cpu_by_part, ports_of

PARTS = (WEB, WORKERS, BROKER)
PATIENCE = 5.0
"""Seconds that callers wait who come at a constant rate."""


@dataclass(frozen=True)
class Costed(Measured):
    """Also the seconds of CPU that each part of the system used meanwhile."""

    cpu: dict[str, float]

    @property
    def cpu_a_request(self) -> float:
        return sum(self.cpu.values()) / max(1, self.requests)

    def cpu_a_request_of(self, part: str) -> float:
        return self.cpu.get(part, 0.0) / max(1, self.requests)


def costed(port: int, route: Route, connections: int, seconds: int) -> Costed:
    """As `measure`, over all web processes of the system at once; the latencies are those of the slowest."""
    ports = ports_of(port)
    before = cpu_by_part(port)
    with ThreadPoolExecutor(len(ports)) as pool:
        seen = list(pool.map(lambda each: measure(each, route, connections // len(ports), seconds), ports))
    after = cpu_by_part(port)
    return Costed(
        requests=sum(one.requests for one in seen),
        rps=sum(one.rps for one in seen),
        p50=max(one.p50 for one in seen),
        p99=max(one.p99 for one in seen),
        max=max(one.max for one in seen),
        failed=sum(one.failed for one in seen),
        cpu={part: used - before[part] for part, used in after.items()},
    )


def costed_at(port: int, route: Route, rate: float, seconds: int) -> Costed:
    """The same at a constant rate, which each web process of the system gets; `max` and the rest are over all."""
    before = cpu_by_part(port)
    with ExitStack() as stack:
        loads = [stack.enter_context(offered(each, route, rate, seconds, PATIENCE)) for each in ports_of(port)]
        answers = [answer for load in loads for answer in load.finished()[0]]
    after = cpu_by_part(port)
    waits = sorted(answer.wait for answer in answers)
    return Costed(
        requests=len(answers),
        rps=len(answers) / seconds,
        p50=waits[len(waits) // 2],
        p99=waits[len(waits) * 99 // 100],
        max=waits[-1],
        failed=sum(answer.status != 200 for answer in answers),
        cpu={part: used - before[part] for part, used in after.items()},
    )


def costs_of(found: Iterable[Costed]) -> list[str]:
    """Cells: the medians of all parts together, and of each."""
    many = list(found)
    each = (median(one.cpu_a_request_of(part) for one in many) for part in PARTS)
    return [f"{1e6 * cost:,.0f}" for cost in (median(one.cpu_a_request for one in many), *each)]
