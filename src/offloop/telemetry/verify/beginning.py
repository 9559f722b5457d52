"""Promises 5 and 6: when a request may begin, and how often.

Each function checks one promise. A loop tells that it begins; that nothing began is believed only of a complete log.
"""

from offloop.telemetry.verify.history import LAG, History, Request, Run, after
from offloop.telemetry.verify.lines import Line
from offloop.telemetry.verify.report import Findings

UNKNOWN = "a request began whose admission is in none of these logs"
UNSEEN = "a request had begun, and no log says when"

SAME = 0.010
"""Seconds by which a deadline may differ after it has travelled."""
SAME_BY_BROKER = 0.050
"""The same, where it has travelled by the clock of a broker, which each side has read over a network."""
TOLD_WITHIN = 0.100
"""Seconds that a withdrawal may take to a broker, before which a loop may still take the request."""


# ---- promise 5


def not_too_late(history: History, found: Findings) -> None:
    """Promise 5: no node begins after the deadline, after a cancellation, or for a rejected request."""
    for request in history.requests.values():
        admit, reject = request.first("admit"), request.first("reject")
        starts = request.all("start")
        if reject and not admit:
            found.judge()
            for start in starts:
                found.violated(f"{request.rid} was rejected, and began", reject, start)
        elif admit is None:
            if starts:
                found.missing(UNKNOWN)
        elif not starts:
            _never_began(request, history, found)
        for start in starts if admit else ():
            found.judge()
            _in_time(request, admit or start, start, bool(request.run and request.run.shared), found)


def _never_began(request: Request, history: History, found: Findings) -> None:
    end, run = request.ended, request.run
    if end and (end.outcome == "ok" or end.begun_at):
        found.missing(UNSEEN)
    elif end and run and history.hears(run):
        found.judge()


def _in_time(request: Request, admit: Line, start: Line, shared: bool, found: Findings) -> None:
    # On another host the deadline is another number: there the loop's own reading of it counts.
    deadline = admit.deadline if admit.boot == start.boot and admit.deadline else start.deadline
    if shared and start.deadline:
        deadline = min(start.deadline, deadline + SAME_BY_BROKER)
    within = TOLD_WITHIN if shared else LAG
    if not deadline:
        found.missing("a deadline is not in the log")
    elif start.t > deadline:
        found.violated(f"{request.rid} began {start.t - deadline:.3f} s after its deadline", admit, start)
    for leaving in request.all("disconnect"):
        kept = admit.finishes and leaving.outcome == "disconnect"
        if not kept and after(start, leaving) and not _raced(request, leaving, start, within):
            found.violated(f"{request.rid} began after its caller had gone ({leaving.outcome})", leaving, start)
            return
    end = request.ended
    if end is None or end.outcome == "invalid-payload":
        return  # a payload is validated by the loop that claimed it: nothing of the program had begun
    cancelled = end.outcome == "cancelled" and after(start, end) and not _raced(request, end, start, within)
    if cancelled or end.started is False:
        found.violated(f"{request.rid} began, although it ended as `{end.outcome}`", end, start)


def _raced(request: Request, cancel: Line, start: Line, within: float) -> bool:
    """Whether the loop had claimed it before it could be taken back, and the two clock readings crossed.

    The web side says so itself: it does not deny that it had begun, and it gave it up, or had its outcome, at once.
    """
    end = request.ended
    if end is None or end.started is False or start.t - cancel.t >= within:
        return False
    return end.outcome == "cancelled" or end.t - cancel.t < within


# ---- promise 6


def not_too_often(history: History, found: Findings) -> None:
    """Promise 6: begun at most once; if idempotent at most `MAX_DELIVERIES` times, within the same deadline."""
    for request in history.requests.values():
        admit, starts = request.first("admit"), request.all("start")
        if not starts:
            if request.ended and request.ended.outcome == "ok":
                found.missing(UNSEEN)
        elif admit and request.run:
            found.judge()
            if len(starts) > 1:
                _again(request, admit, request.run, found)
        elif not request.all("reject"):
            found.missing(UNKNOWN)


def _again(request: Request, admit: Line, run: Run, found: Findings) -> None:
    starts = request.all("start")
    if not admit.idempotent:
        found.violated(f"{request.rid} began {len(starts)} times and is not idempotent", *starts)
        return
    most = run.max_deliveries
    if not most:
        found.missing("`MAX_DELIVERIES` is not in the log")
    elif len(starts) > most:
        found.violated(f"{request.rid} began {len(starts)} times, MAX_DELIVERIES is {most}", *starts)
    same = SAME_BY_BROKER if run.shared else SAME
    for start in starts:
        if start.boot == admit.boot and start.deadline > admit.deadline + same:
            found.violated(f"{request.rid} began again with a later deadline", admit, start)
