"""What a check found: a verdict for each promise, and how it is told.

Owns the rule that makes a verdict of what was found: a violation weighs more than missing evidence, and without
evidence nothing is held.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from offloop.telemetry.verify.history import EXACT, Run
from offloop.telemetry.verify.lines import Line

State = Literal["held", "violated", "not checkable"]

SHOWN = 20
"""Violations of one promise that are printed; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One breach: which request or process, what happened, and the lines that show it."""

    text: str
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        return f"{self.text} ({', '.join(line.where for line in self.lines)})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one promise.

    Attributes:
        promise: its number in section 6 of the contract.
        text: the promise in short.
        judged: how many cases were looked at.
        excused: how many bounds were passed while the event loop was held up.
        why: what evidence is missing, where it is not checkable.
    """

    promise: int
    text: str
    state: State
    judged: int
    excused: int
    violations: tuple[Violation, ...]
    why: tuple[str, ...]


class Findings:
    """Collects while one promise is checked."""

    def __init__(self) -> None:
        self.judged = 0
        self.excused = 0
        self._violations: list[Violation] = []
        self._missing: Counter[str] = Counter()

    def judge(self) -> None:
        """One more case was looked at."""
        self.judged += 1

    def within(self, when: float, since: float, bound: float, run: Run, text: str, *lines: Line) -> None:
        """What happened at `when` was due within `bound` seconds of `since`, or as the event loop's lag excuses."""
        if when - since - bound <= EXACT:
            return
        if when <= run.until(since, bound) + EXACT:
            self.excused += 1
        else:
            self.violated(f"{text} by {when - since:.3f} s", *lines)

    def violated(self, text: str, *lines: Line) -> None:
        self._violations.append(Violation(text, lines))

    def missing(self, why: str) -> None:
        """Evidence is missing, so that the promise cannot be said to be held."""
        self._missing[why] += 1

    def verdict(self, promise: int, text: str, nothing: str) -> Verdict:
        """`nothing` says why there was nothing to judge, where there was not."""
        why = [reason if count == 1 else f"{reason} (×{count})" for reason, count in self._missing.items()]
        if not self.judged and not why:
            why = [nothing]
        state: State = "violated" if self._violations else "not checkable" if why else "held"
        return Verdict(promise, text, state, self.judged, self.excused, tuple(self._violations), tuple(why))


@dataclass(frozen=True, slots=True)
class Report:
    """All verdicts, in the order of the promises; or the error by which a log could not be read."""

    verdicts: Sequence[Verdict] = ()
    error: str | None = None

    def __getitem__(self, promise: int) -> Verdict:
        return next(verdict for verdict in self.verdicts if verdict.promise == promise)

    @property
    def violated(self) -> tuple[int, ...]:
        """The numbers of the promises that were broken."""
        return tuple(verdict.promise for verdict in self.verdicts if verdict.state == "violated")

    @property
    def exit_code(self) -> int:
        """0, 1 if a promise is violated, 2 if a log could not be read."""
        return 2 if self.error else 1 if self.violated else 0

    def lines(self) -> list[str]:
        """For people, plain text."""
        if self.error:
            return [self.error]
        told: list[str] = []
        for verdict in self.verdicts:
            told.append(f"{verdict.promise}  {verdict.state:<13}  {verdict.text}{_counts(verdict)}")
            told += [f"     {violation}" for violation in verdict.violations[:SHOWN]]
            if len(verdict.violations) > SHOWN:
                told.append(f"     and {len(verdict.violations) - SHOWN} more")
            told += [f"     {why}" for why in verdict.why]
        return told


def _counts(verdict: Verdict) -> str:
    said = [f"{count:,} {word}" for count, word in ((verdict.judged, "judged"), (verdict.excused, "excused")) if count]
    return f" [{', '.join(said)}]" if said else ""
