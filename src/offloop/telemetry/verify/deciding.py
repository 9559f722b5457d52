"""Promises 1 and 2: every request is decided once, and has one outcome, which is its own.

Each function checks one promise. None judges times but the order of cause and effect.
"""

from offloop.errors import BY_REASON
from offloop.telemetry.verify.history import History, Request, Run, after
from offloop.telemetry.verify.lines import Line
from offloop.telemetry.verify.report import Findings

DECIDED_BY = 5.0
"""Seconds after which an undecided arrival is taken to stay undecided; no promise bounds a shared broker's answer."""
SETTLED_BY = 0.1
"""Seconds within which a waiter's end and its outcome are both in the log."""


def decided_once(history: History, found: Findings) -> None:
    """Promise 1: every arriving request is admitted or rejected, once."""
    for request in history.requests.values():
        run = request.run
        if run is None:
            continue  # only loops speak of it: it arrived in a log that was not given
        found.judge()
        arrivals, decisions = request.all("arrive"), request.all("admit") + request.all("reject")
        if len(arrivals) > 1:
            found.violated(f"{request.rid} arrived more than once", *arrivals)
        if len(decisions) > 1:
            found.violated(f"{request.rid} was decided more than once", *decisions)
        if not arrivals and run.whole:
            found.violated(f"{request.rid} never arrived", request.earliest)
        if arrivals and not decisions and run.whole:
            if run.over(arrivals[0].t + DECIDED_BY) or request.ended:
                found.violated(f"{request.rid} was neither admitted nor rejected", arrivals[0])
            else:
                found.missing("the log ends while a request was being decided")


def one_outcome(history: History, found: Findings) -> None:
    """Promise 2: every admitted request has exactly one outcome, and never a reply that is not its own."""
    admitted = list(history.admitted())
    if admitted and not any(request.ended for request, _, _ in admitted):
        found.missing("no outcome of an admitted request is in the log")
        return
    for request, admit, run in admitted:
        found.judge()
        ends = request.all("terminal")
        if len(ends) > 1:
            found.violated(f"{request.rid} has {len(ends)} outcomes", *ends)
        if not ends:
            _without_outcome(request, admit, run, found)
        for end in ends:
            _own_reply(request, end, run, history, found)
    for request in history.requests.values():
        ended, reject = request.ended, request.first("reject")
        if ended and reject and not request.all("admit"):
            found.judge()
            found.violated(f"{request.rid} was rejected, and yet has an outcome", reject, ended)


def _without_outcome(request: Request, admit: Line, run: Run, found: Findings) -> None:
    gone = request.first("waiter_del")
    if gone and run.over(gone.t + SETTLED_BY):
        found.violated(f"{request.rid} has no outcome, and its waiter is gone", admit, gone)
    elif run.whole and run.closing:
        found.violated(f"{request.rid} has no outcome", admit, run.closing)
    elif run.whole:
        found.missing("the log ends without `close` while a request was open")


def _own_reply(request: Request, end: Line, run: Run, history: History, found: Findings) -> None:
    """A reply, or a program's own Problem, can only come from a loop that finished this attempt with it."""
    if end.outcome != "ok" and end.outcome in BY_REASON:
        return
    finishes = request.served_by(end)
    if not finishes:
        if history.hears(run):
            found.violated(f"{request.rid} ended as `{end.outcome}`, which none of its loops made", end)
        elif run.whole:
            found.missing("no complete log of the loops says how a request finished")
    elif all(after(finish, end) for finish in finishes):
        found.violated(f"{request.rid} ended as `{end.outcome}` before a loop had made that", end, *finishes)
    elif end.size and all(finish.size not in (0, end.size) for finish in finishes):
        found.violated(f"{request.rid} was answered with {end.size} bytes, which are not its own", end, *finishes)
