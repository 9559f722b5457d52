"""The checker of the promises: from event logs, or from events in memory, to a verdict for each promise.

Owns which function checks which promise. What a promise means stands in the function that checks it; nothing here
looks at a running program, and no verdict rests on anything but the events.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from offloop.telemetry.verify.beginning import not_too_late, not_too_often
from offloop.telemetry.verify.deciding import decided_once, one_outcome
from offloop.telemetry.verify.ending import death_is_contained, drain_ends, late_is_dropped
from offloop.telemetry.verify.history import History
from offloop.telemetry.verify.lines import Unreadable, given, read
from offloop.telemetry.verify.report import Findings, Report, Verdict, Violation
from offloop.telemetry.verify.waiting import bounded, short_lived

__all__ = ["PROMISES", "Report", "Verdict", "Violation", "check", "verify"]

Check = Callable[[History, Findings], None]

PROMISES: dict[int, tuple[str, Check, str]] = {
    1: ("every arriving request is admitted or rejected, once", decided_once, "no request arrived"),
    2: ("every admitted request has exactly one outcome, its own", one_outcome, "no request was admitted"),
    3: ("no waiter outlives its deadline or its outcome", short_lived, "no request was admitted"),
    4: ("waiters and queue stay within their limits", bounded, "no request was admitted"),
    5: ("nothing begins too late, cancelled or rejected", not_too_late, "no request was decided"),
    6: ("a request begins once, or as often as it may", not_too_often, "no request began"),
    7: ("a worker's death ends what it ran, and nothing else", death_is_contained, "no worker died with work at hand"),
    8: ("a drain admits nothing and ends in its budget", drain_ends, "there was no drain"),
    9: ("a late or duplicate reply is counted and dropped", late_is_dropped, "no reply came late"),
}
"""By number: the promise in short, what checks it, and why there may be nothing to check."""


def verify(paths: Iterable[str | Path]) -> Report:
    """Check the promises from event logs, of one or many processes. Never raises: see `Report.error`."""
    try:
        # A log that is named twice is still one log.
        files = {Path(path).resolve(): path for path in paths}
        if not files:
            return Report(error="no event log was given")
        return _judge(History(line for path in files.values() for line in read(path)))
    except Unreadable as fault:
        return Report(error=str(fault))


def check(events: Iterable[Any]) -> Report:
    """The same, from events in memory: `events.Event`s, or mappings of their fields, in the order of their making."""
    return _judge(History(given(events)))


def _judge(history: History) -> Report:
    missing = list(_evidence(history))
    verdicts = []
    for number, (text, promise, nothing) in PROMISES.items():
        found = Findings()
        for why in missing:
            found.missing(why)
        promise(history, found)
        verdicts.append(found.verdict(number, text, nothing))
    return Report(verdicts)


def _evidence(history: History) -> Iterable[str]:
    """What every promise needs, where it is not there."""
    if not history.runs:
        yield "the log is empty"
    elif not history.web:
        yield "no log of a process with waiters was given"
    for run in history.runs:
        if not run.worker and run.opening is None:
            yield f"the log of {run.name} does not begin with `open`"
        elif not run.whole:
            yield f"lines of {run.name} are missing"
