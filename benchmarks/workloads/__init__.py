"""The workloads, and what their measurements have in common: rounds, in which the systems take turns."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from environments import Unavailable
from report import Part
from routes import Route
from servers import serving
from systems import System


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line."""

    keys: frozenset[str]
    """The systems."""
    rounds: int
    seconds: int
    """Of each measurement."""
    workers: int
    """Threads or processes, where several are measured."""
    turns: int
    """Of the loop in `apps/work.py` that take 10 ms here."""

    def of(self, *systems: System) -> list[System]:
        return [system for system in systems if system.key in self.keys]


class Result(Protocol):
    """What every kind of measurement has."""

    @property
    def rps(self) -> float: ...
    @property
    def failed(self) -> int: ...


Measured = TypeVar("Measured", bound=Result)


class Rounds(dict[str, dict[str, dict[int, Measured]]], Generic[Measured]):
    """What was measured (`16 connections`) → system → round → measurement."""

    def note(self, what: str, system: System, number: int, measured: Measured) -> None:
        self.setdefault(what, {}).setdefault(system.name, {})[number] = measured

    def of(self, what: str, system: System) -> list[Measured]:
        return list(self.get(what, {}).get(system.name, {}).values())

    def ratios(
        self, what: str, system: System, yardstick: System, value: Callable[[Measured], float] = lambda one: one.rps
    ) -> list[float]:
        """By how much the one system's value is that of the other in the same round."""
        ones, others = (self.get(what, {}).get(each.name, {}) for each in (system, yardstick))
        pairs = [(value(one), value(others[number])) for number, one in ones.items() if number in others]
        return [one / other for one, other in pairs if other]

    def spoilt(self) -> list[str]:
        """What was not answered as it should be, though nothing was asked that could not be."""
        failed = {
            f"{what}, {system}": sum(one.failed for one in many.values())
            for what, systems in self.items()
            for system, many in systems.items()
        }
        return [f"{count} requests without their answer ({where})" for where, count in failed.items() if count]


@contextmanager
def side_by_side(plan: Plan, systems: Sequence[System], route: Route, part: Part) -> Iterator[dict[System, int]]:
    """Each system as it comes, all of them up at once; yields their ports. What cannot be started is left out."""
    with ExitStack() as servers:
        ports: dict[System, int] = {}
        for system in systems:
            try:
                ports[system] = servers.enter_context(serving(system, route, turns=plan.turns))
            except Unavailable as reason:
                part.left_out[system.name] = str(reason)
        yield ports


def say(what: str) -> None:
    print(what, file=sys.stderr)
