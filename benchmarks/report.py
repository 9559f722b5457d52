"""What a workload found: its tables, its figures for later, and the goals that were held or missed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

WIDTH = 140
Cell = str


@dataclass(frozen=True)
class Verdict:
    goal: str
    found: str
    held: bool


@dataclass
class Part:
    """What one workload gives back."""

    tables: list[Table] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """The system's name → why it was not measured."""
    remarks: list[str] = field(default_factory=list)
    spoilt: list[str] = field(default_factory=list)
    """What makes these figures worth nothing."""


def table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=SIMPLE)


def show(part: Part) -> None:
    console = Console(width=WIDTH)
    for one in part.tables:
        console.print(one)
    for system, reason in part.left_out.items():
        console.print(f"left out: {system}: {reason}", markup=False)
    for line in part.remarks:
        console.print(line, markup=False)
    for line in part.spoilt:
        console.print(f"these figures mean nothing: {line}", markup=False)


def show_goals(verdicts: Sequence[Verdict]) -> None:
    goals = table("goals", "goal", "found", "")
    for verdict in verdicts:
        goals.add_row(verdict.goal, verdict.found, "held" if verdict.held else "missed")
    if verdicts:
        Console(width=WIDTH).print(goals)


def at_least(goal: str, ratios: Sequence[float], floor: float) -> list[Verdict]:
    """A verdict on the median of ratios that should be large; none where one side was not measured."""
    return [Verdict(goal, f"{median(ratios):.2f} times", median(ratios) >= floor)] if ratios else []


def at_most(goal: str, seconds: Sequence[float], ceiling: float) -> list[Verdict]:
    """A verdict on the median of times that should be short; none where nothing was measured."""
    return [Verdict(goal, ms(median(seconds)), median(seconds) <= ceiling)] if seconds else []


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which that share lies; None of nothing."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def there(values: Iterable[float | None]) -> list[float]:
    """Those that are."""
    return [value for value in values if value is not None]


def ms(seconds: float) -> Cell:
    return f"{seconds * 1000:.2f} ms"


def ms_range(seconds: Iterable[float]) -> Cell:
    return spread((1000 * one for one in seconds), 2)


def spread(values: Iterable[float], places: int = 2) -> Cell:
    """The median and the range."""
    many = list(values)
    if not many:
        return "–"
    return f"{median(many):.{places}f} ({min(many):.{places}f}-{max(many):.{places}f})"
